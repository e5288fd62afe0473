"""QK-clip: keep attention's scores below a limit, by the largest score of each head, read in the pass that trains.

Where a head has a larger one, its query and key weights are scaled down by the root of what it is too much (Kimi K2,
2025). Over several machines one all-reduce of one tensor, [layers, heads], is all that they exchange.
"""

import torch
from torch import nn

import pellucid

LIMIT, HEADS, WIDTH = 3.0, 4, 32

torch.manual_seed(0)
model = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, HEADS, 64, dropout=0.0, batch_first=True), 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for layer in model.layers:
    with torch.no_grad():
        layer.self_attn.in_proj_weight[: 2 * WIDTH] *= 3  # too large from the beginning


@torch.no_grad()
def clip(largest: torch.Tensor) -> None:
    """Scale what makes queries and keys of the heads whose largest score, [layers, heads], passes the limit."""
    for layer, scores in zip(model.layers, largest, strict=True):
        factor = (LIMIT / scores.clamp(min=LIMIT)).sqrt()  # 1 below the limit, also where all scores are negative
        factor = factor.repeat_interleave(WIDTH // HEADS).repeat(2)  # of queries, keys
        layer.self_attn.in_proj_weight[: 2 * WIDTH] *= factor[:, None]
        layer.self_attn.in_proj_bias[: 2 * WIDTH] *= factor


for step in range(5):
    x = torch.randn(8, 23, WIDTH)
    with pellucid.watch(model, [pellucid.MaxScore(per_head=True)]) as record:
        (model(x) - x.roll(1, 1)).square().mean().backward()
    largest = record.max_scores()  # here: torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    print(f"step {step}: the largest score of {largest.numel()} heads is {largest.max():.2f}")
    optimizer.step()
    optimizer.zero_grad()
    clip(largest)

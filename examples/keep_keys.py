"""Key-value eviction after SnapKV (Li et al. 2024): keep the keys that the last queries of the prompt looked at.

What it needs is one readout, the weight that each key received from the last 32 queries, for which others compute a
second attention. Here it comes out of the call that processes the prompt.
"""

import torch

import pellucid
from pellucid.nn import KeyValueCache, SelfAttention

WINDOW, KEPT = 32, 128
torch.manual_seed(0)
layer = SelfAttention(64, 4, is_causal=True, rotary=10_000.0)
prompt = torch.randn(1, 512, 64)
prompt[:, 100:110] *= 5  # tokens that stand out

cache = KeyValueCache()
with torch.no_grad():
    _, seen = layer(prompt, cache=cache, observe=[pellucid.Received(queries=slice(-WINDOW, None))])

received = seen.received[..., :-WINDOW]  # [batch, heads, keys]; the window itself is kept whole
chosen = received.topk(KEPT - WINDOW, dim=-1).indices.sort(-1).values
kept = torch.cat((chosen, torch.arange(512 - WINDOW, 512).expand(1, 4, -1)), -1)  # a set of keys for each head
index = kept[..., None].expand(-1, -1, -1, cache.key.shape[-1])
smaller = KeyValueCache()  # its keys keep the positions that they had: going on, queries count from 512
smaller.append(cache.key.gather(-2, index), cache.value.gather(-2, index))

share = received.gather(-1, chosen).sum(-1) / received.sum(-1)
print(f"{cache.length} keys, {smaller.length} kept")
print("share of the window's attention that they hold, a head:", [f"{part:.0%}" for part in share[0]])

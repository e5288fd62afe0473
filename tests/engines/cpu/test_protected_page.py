"""No kernel reads or writes outside its tensors. Each case runs in a process of its own: a stray read ends it."""

import os
import subprocess
import sys

import pytest

CASE = """
import sys, torch, pellucid
from pellucid import engines, masks, readouts
from tests.engines.cpu.protected import after_the_edge, at_the_edge

q_len, k_len, head_dim, value_dim, dtype, edge = eval(sys.argv[1])
edge = {"end": at_the_edge, "start": after_the_edge}[edge]
torch.manual_seed(0)
def made(*shape):
    return edge(torch.randn(*shape, dtype=torch.float64).to(getattr(torch, dtype)))
query, key, value = made(2, 4, q_len, head_dim), made(2, 2, k_len, head_dim), made(2, 2, k_len, value_dim)
bias, ids = made(4, q_len, k_len), edge(torch.arange(max(q_len, k_len)) // 7)
mask, row = edge(torch.rand(q_len, k_len) > 0.3), edge(torch.rand(k_len) > 0.3)
every = lambda: [readouts.LogSumExp(), readouts.Entropy(), readouts.TopK(1), readouts.Received(),
                 readouts.Pooled(3, 5), readouts.mean_distance()]
calls = [
    {}, {"is_causal": True}, {"attn_mask": mask}, {"mask_mod": masks.documents(ids)},
    {"score_mod": lambda score, b, h, q, k: score + bias[h, q, k] + bias[h, 0, q - k]},
    {"mask_mod": lambda b, h, q, k: row[k] & row[k - q] & row[k + 1]},
]
with engines.using("cpu"), torch.no_grad():
    for call in calls:
        output, seen = pellucid.observe(query, key, value, enable_gqa=True, readouts=every(), **call)
        assert output.shape == (2, 4, q_len, value_dim)
        assert 0 < seen.received.sum() < 1.01 * seen.received.numel() * q_len
"""


@pytest.mark.parametrize("edge", ["end", "start"])
@pytest.mark.parametrize(
    ("q_len", "k_len", "head_dim", "value_dim", "dtype"),
    [
        (7, 13, 5, 3, "float32"),
        (49, 257, 17, 33, "float32"),
        (3, 131, 64, 16, "float32"),  # decode
        (5, 67, 31, 7, "bfloat16"),
        (53, 259, 33, 47, "bfloat16"),
        (11, 17, 1, 1, "float16"),
        (2, 97, 9, 10, "float16"),  # decode
        (19, 29, 12, 11, "float64"),
    ],
)
def test_nothing_beyond_the_edge_is_touched(
    q_len: int, k_len: int, head_dim: int, value_dim: int, dtype: str, edge: str
) -> None:
    case = repr((q_len, k_len, head_dim, value_dim, dtype, edge))
    done = subprocess.run(
        [sys.executable, "-c", CASE, case], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]

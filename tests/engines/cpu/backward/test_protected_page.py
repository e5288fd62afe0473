"""The backward kernel reads and writes nothing outside its tensors, its results and its scratch memory."""

from __future__ import annotations

import os

import pytest
import torch

import pellucid
from pellucid import engines
from tests.engines.cpu.forked import exit_code, forked
from tests.engines.cpu.protected import Guarded
from tests.engines.cpu.test_protected_page import EDGES, Edge, inputs_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
CASES = [(17, 33, 7, 5), (49, 257, 64, 32), (97, 300, 40, 3), (1, 1, 1, 1), (64, 16, 16, 64)]


def stays_inside(case: tuple[int, int, int, int], dtype: torch.dtype, edge: Edge) -> bool:
    """Every kind of call beside one edge, with strides and without."""
    q_len, k_len, _, value_dim = case
    bias, mask = edge(torch.randn(q_len, k_len).to(dtype)), edge(torch.rand(q_len, k_len) > 0.3)
    sinks = edge(torch.randn(4).to(dtype))
    calls = [
        {},
        {"is_causal": True, "sinks": sinks},
        {"attn_mask": mask},
        {"score_mod": lambda s, b, h, q, k: torch.tanh(s) + bias[q, k] * s},
        {"scale": 0.7, "mask_mod": lambda b, h, q, k: q - k < 20},
    ]
    for number, call in enumerate(calls):
        leaves = [t.requires_grad_() for t in inputs_of(edge, case, dtype, strided=number % 2 == 1)]
        upstream = edge(torch.randn(2, 4, q_len, value_dim).to(dtype))
        with engines.using("cpu"), Guarded(edge):
            output = pellucid.attention(*leaves, enable_gqa=True, **call)
            made = torch.autograd.grad(output, leaves, upstream)
        assert all(gradient.isfinite().all() for gradient in made)
    return True


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_nothing_outside(dtype: torch.dtype, edge: str) -> None:
    for case in CASES:
        assert exit_code(forked(lambda case=case: stays_inside(case, dtype, EDGES[edge])), 200) == 0, case

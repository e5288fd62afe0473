"""The backward kernel reads and writes nothing outside its tensors, its results and its scratch memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

import pytest
import torch

import pellucid
from pellucid import engines
from tests.engines.cpu.forked import exit_code, forked
from tests.engines.cpu.protected import Guarded
from tests.engines.cpu.test_protected_page import EDGES, Edge, inputs_of
from tests.thorough import thorough

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
Case = tuple[int, int, int, int]
CASES: list[Case] = [(17, 33, 7, 5), (49, 257, 64, 32), (97, 300, 40, 3), (1, 1, 1, 1), (64, 16, 16, 64)]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PRODUCT = list(itertools.product(CASES, DTYPES))
# Every kind of call once.
SOME = [
    (CASES[0], torch.float32, (1, 3)), (CASES[1], torch.bfloat16, (0, 4)), (CASES[2], torch.float64, (2,)),
]  # fmt: skip


def stays_inside(case: Case, dtype: torch.dtype, edge: Edge, numbers: Sequence[int] = range(5)) -> bool:
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
    for number in numbers:
        call = calls[number]
        leaves = [t.requires_grad_() for t in inputs_of(edge, case, dtype, strided=number % 2 == 1)]
        upstream = edge(torch.randn(2, 4, q_len, value_dim).to(dtype))
        with engines.using("cpu"), Guarded(edge):
            output = pellucid.attention(*leaves, enable_gqa=True, **call)
            made = torch.autograd.grad(output, leaves, upstream)
        assert all(gradient.isfinite().all() for gradient in made)
    return True


@pytest.mark.parametrize(("case", "dtype", "numbers"), SOME, ids=str)
def test_some_calls(case: Case, dtype: torch.dtype, numbers: Sequence[int]) -> None:
    for edge in EDGES.values():
        assert exit_code(forked(lambda edge=edge: stays_inside(case, dtype, edge, numbers)), 200) == 0


@pytest.mark.parametrize(("case", "dtype"), thorough(PRODUCT, (), share=23), ids=str)
def test_nothing_outside(case: Case, dtype: torch.dtype) -> None:
    for edge in EDGES.values():
        assert exit_code(forked(lambda edge=edge: stays_inside(case, dtype, edge)), 200) == 0

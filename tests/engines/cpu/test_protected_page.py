"""No kernel reads or writes outside its tensors, nor outside the memory that it is given for results and scratch.

Each case runs in a child of its own, which a stray access ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid import engines, masks, readouts
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine.target import host
from tests.engines.cpu.direct import observe
from tests.engines.cpu.forked import exit_code, forked
from tests.engines.cpu.protected import Guarded, after_the_edge, at_the_edge
from tests.thorough import thorough

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

Edge = Callable[[Tensor], Tensor]
EDGES: dict[str, Edge] = {"end": at_the_edge, "start": after_the_edge}


ROW_READOUTS = [readouts.LogSumExp(), readouts.Entropy(), readouts.TopK(1), readouts.mean_distance()]
COLUMN_READOUTS = [readouts.Received(), readouts.Pooled(3, 5), readouts.PooledMax(5, 300)]


def calls_of(edge: Edge, q_len: int, k_len: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Masks, and captured tensors of all dtypes that are read in place, with elements beside the edge in use."""
    bias, ids = edge(torch.randn(4, q_len, k_len).to(dtype)), edge(torch.arange(max(q_len, k_len)) // 7)
    mask, row = edge(torch.rand(q_len, k_len) > 0.3), edge(torch.rand(k_len) > 0.3)
    small, short = edge((torch.arange(k_len) % 5).to(torch.uint8)), edge((torch.arange(k_len) % 5).to(torch.int16))
    numbers = [edge(torch.randn(k_len).to(kind)) for kind in (torch.float32, torch.bfloat16, torch.float64)]
    return [
        {},
        {"is_causal": True, "sinks": edge(torch.randn(4).to(dtype))},
        {"attn_mask": mask},
        {"mask_mod": masks.documents(ids)},
        {"score_mod": lambda score, b, h, q, k: score + bias[h, q, k] + bias[h, 0, q - k]},
        {"score_mod": lambda score, b, h, q, k: score * small[k] + short[q] + sum(x[k] for x in numbers)},
        {"mask_mod": lambda b, h, q, k: row[k] & row[k - q] & row[k + 1]},  # the last where torch would raise
    ]


def inputs_of(edge: Edge, case: tuple[int, int, int, int], dtype: torch.dtype, strided: bool) -> list[Tensor]:
    """Query, key and value beside the edge; `strided` ones are the last columns (or first) of something wider."""
    q_len, k_len, head_dim, value_dim = case

    def made(heads: int, length: int, dim: int) -> Tensor:
        wide = edge(torch.randn(2, length, heads, 2 * dim if strided else dim).to(dtype))
        part = slice(dim, None) if edge is at_the_edge else slice(0, dim)
        return wide[..., part if strided else slice(None)].transpose(1, 2)

    return [made(4, q_len, head_dim), made(2, k_len, head_dim), made(2, k_len, value_dim)]


def stays_inside(case: tuple[int, int, int, int], dtype: torch.dtype, edge: Edge) -> bool:
    """Every kernel beside one edge; every other call of `calls_of` has sums over queries read, the rest parts."""
    q_len, k_len, _, value_dim = case
    few = {"queries": [0, q_len - 1, q_len - 1], "keys": [k_len - 1, 0, k_len - 2]}
    steps = {"queries": slice(0, None, 2), "keys": slice(k_len % 2, None, 2), "heads": [3]}
    guarded = Guarded(edge)
    for number, call in enumerate(calls_of(edge, q_len, k_len, dtype)):
        tensors = inputs_of(edge, case, dtype, strided=number % 3 == 1)
        wanted = ROW_READOUTS + (COLUMN_READOUTS if number % 2 else [])
        chosen = [] if number % 2 else [{}, few, steps]
        with engines.using("cpu"), torch.no_grad(), guarded:
            output, seen = observe(*tensors, readouts=wanted, **call)
            parts = [seen.weights(**part) for part in chosen]
        assert output.shape == (2, 4, q_len, value_dim)
        assert output.isfinite().all()
        if number % 2:
            assert 0 < seen.received.sum() < 1.01 * seen.received.numel() * q_len
        elif "mask_mod" not in call:  # whose last key is where torch would raise
            with engines.using("portable"):
                usual = [seen.weights(**part) for part in chosen]
            torch.testing.assert_close(parts, usual, rtol=1e-3, atol=1e-3)
    assert guarded.count > 20
    symbols = {symbol for symbol, *_ in compiler._loaded}
    few, short = k_len > 64 and q_len * 2 <= 16, max(q_len, k_len) <= KEYS and value_dim % 16 == 0
    first = "decode" if few else "onetile" if short and dtype.itemsize > 2 else "forward"
    return {first, "columns", "weights"} <= symbols


CASES = [
    (7, 13, 5, 3, "float32"),
    (49, 257, 17, 33, "float32"),
    (3, 131, 64, 16, "float32"),  # decode
    (5, 67, 31, 7, "bfloat16"),  # decode
    (3, 283, 64, 80, "bfloat16"),  # decode
    (53, 259, 33, 47, "bfloat16"),
    (11, 17, 1, 1, "float16"),
    (2, 97, 9, 10, "float16"),  # decode
    (50, 66, 23, 40, "float16"),
    (83, 113, 39, 41, "float32"),  # in parts, where there are matrix tiles
    (91, 97, 64, 24, "float16"),
    (45, 77, 33, 32, "float32"),  # one tile
    (19, 29, 12, 11, "float64"),
    (21, 31, 7, 48, "float64"),  # one tile
    (3, 97, 13, 5, "float64"),  # decode
]
EVERY_DAY = [case for case in CASES if case[0] in (7, 49, 5, 53, 91, 45, 21, 2)]


@pytest.mark.sampled
@pytest.mark.parametrize(("q_len", "k_len", "head_dim", "value_dim", "dtype"), thorough(CASES, EVERY_DAY))
def test_nothing_beyond_the_edge_is_touched(
    q_len: int, k_len: int, head_dim: int, value_dim: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == "float16" and not host().half:
        pytest.skip("this processor leaves float16 to the portable engine")
    monkeypatch.setattr(compiler, "_loaded", {})
    case = q_len, k_len, head_dim, value_dim
    child = forked(lambda: all(stays_inside(case, getattr(torch, dtype), edge) for edge in EDGES.values()))
    assert exit_code(child, 120) == 0


@pytest.mark.parametrize("edge", EDGES)
def test_the_edge_cannot_be_touched(edge: str) -> None:
    """Or the tests above would prove nothing."""
    beyond = {"end": lambda t: t.data_ptr() + t.nbytes, "start": lambda t: t.data_ptr() - 1}[edge]

    def touches() -> bool:
        import ctypes
        import faulthandler

        faulthandler.disable()
        ctypes.string_at(beyond(EDGES[edge](torch.zeros(7))), 1)
        return True

    assert exit_code(forked(touches)) in (-11, -10)

"""One row through a linear layer, against float64."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pellucid.engines.cpu.kernels.linear_row import WORK_A_THREAD, row_through
from tests.engines.cpu.forked import exit_code, forked
from tests.engines.cpu.protected import Guarded, after_the_edge, at_the_edge

ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-23}  # relative
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=str)


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(row: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    exact = row.double() @ weight.double().T + (0 if bias is None else bias.double())
    terms = row.double().abs() @ weight.double().abs().T + (0 if bias is None else bias.double().abs())
    found = row_through(row, weight, bias)
    assert found.dtype == row.dtype
    assert found.shape == exact.shape
    assert ((found.double() - exact).abs() <= ROUNDING[row.dtype] * exact.abs() + 1e-6 * terms).all()


@DTYPES
@given(
    columns=st.integers(1, 700), outputs=st.integers(1, 70), gap=st.integers(0, 9), biased=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_any_size_and_stride(dtype: torch.dtype, columns: int, outputs: int, gap: int, biased: bool, seed: int) -> None:
    weight = drawn(outputs, columns + gap, seed=seed, dtype=dtype)[:, :columns]
    bias = drawn(outputs, seed=seed + 2, dtype=dtype) if biased else None
    check(drawn(1, 1, columns, seed=seed + 1, dtype=dtype), weight, bias)


def test_many_threads_give_the_same_bits() -> None:
    columns, outputs = 1031, 5 * WORK_A_THREAD // 1031
    row, weight, bias = drawn(columns, seed=0), drawn(outputs, columns, seed=1), drawn(outputs, seed=2)
    check(row, weight, bias)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(row_through(row, weight, bias))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_is_not_finite_comes_through_where_it_is() -> None:
    weight = drawn(4, 70, seed=0)
    weight[1, 69], weight[2, 3] = torch.nan, torch.inf
    found = row_through(torch.ones(70, dtype=torch.bfloat16), weight, None)
    assert found[1].isnan()
    assert found[2] == torch.inf
    assert found[[0, 3]].isfinite().all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("columns", [1, 31, 32, 130, 257])
@DTYPES
def test_nothing_beyond_the_edge_is_touched(columns: int, dtype: torch.dtype) -> None:
    def stays_inside() -> bool:
        for edge in (at_the_edge, after_the_edge):
            row, weight, bias = (edge(drawn(*shape, seed=3, dtype=dtype)) for shape in ((columns,), (5, columns), (5,)))
            with Guarded(edge) as guarded:
                found = row_through(row, weight, bias)
            assert guarded.count == 1
            assert found.isfinite().all()
        return True

    assert exit_code(forked(stays_inside)) == 0

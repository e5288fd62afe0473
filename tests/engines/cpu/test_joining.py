"""Ranges of keys one after another, each joined to what there is of those before, in place: the same as all at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pellucid import engines, masks, readouts
from pellucid.arguments import Arguments, describe
from pellucid.engines.cpu.machine.target import host
from pellucid.problem import Problem
from tests.cases import examples, normal
from tests.engines.cpu.forked import exit_code, forked
from tests.engines.cpu.protected import Guarded, after_the_edge, at_the_edge

ERRORS = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
FUNCTIONS: list[dict[str, Any]] = [
    {},
    {"mask_mod": masks.sliding_window(20, 3)},
    {"mask_mod": lambda b, h, q, k: k > 1000},
    {"score_mod": lambda score, b, h, q, k: score * 3 - abs(q - k) * 0.1},
]


def posed(query: Tensor, key: Tensor, value: Tensor, **call: Any) -> Problem:
    return describe(Arguments(query, key, value, enable_gqa=True, **call))[0]


def joined(problem: Problem, cuts: list[int], output: Tensor, lse: Tensor) -> bool:
    """Whether the engine joined every range to zeros and no weight; without functions of the key's position."""
    for first, stop in zip([0, *cuts], [*cuts, problem.k_len], strict=True):
        part = replace(problem, key=problem.key[..., first:stop, :], value=problem.value[..., first:stop, :])
        if engines.joined(part, output, lse) is None:
            return False
    return True


@examples(20)
@given(
    lengths=st.tuples(st.integers(1, 150), st.integers(3, 400)),
    dims=st.tuples(st.sampled_from((1, 8, 33, 64)), st.sampled_from((1, 16, 40, 65))),
    dtype=st.sampled_from(list(ERRORS)),
    batch=st.sampled_from(((), (2,), (2, 3))),
    share=st.floats(0.1, 0.9),
    large=st.sampled_from((1.0, 1.0, 30.0)),
    wide=st.booleans(),
)
def test_ranges_of_keys(
    lengths: tuple[int, int],
    dims: tuple[int, int],
    dtype: torch.dtype,
    batch: tuple[int, ...],
    share: float,
    large: float,
    wide: bool,
) -> None:
    if dtype == torch.float16 and not host().half:
        dtype = torch.float32
    (q_len, k_len), (dim, value_dim) = lengths, dims
    shapes = (4, q_len, dim), (2, k_len, dim), (2, k_len, value_dim)
    query, key, value = (normal(*batch, *shape, seed=n).to(dtype) for n, shape in enumerate(shapes))
    problem = posed(query * large, key, value)
    rows = torch.zeros(*problem.rows, value_dim + 7 * wide, dtype=problem.dtype)
    output, lse = rows[..., :value_dim], torch.full(problem.rows, -torch.inf, dtype=problem.dtype)
    cut = min(max(int(k_len * share), 1), k_len - 1)
    # Decode, which reads keys where they lie, joins nothing.
    if not joined(problem, [cut], output, lse):
        assert q_len * 2 <= 16
        return
    exact = engines.run(posed((query * large).double(), key.double(), value.double(), readouts=(readouts.LogSumExp(),)))
    error = ERRORS[dtype] * large
    torch.testing.assert_close(output.double(), exact.output, rtol=error, atol=error)
    torch.testing.assert_close(lse.double(), exact.lse, rtol=error, atol=error)
    assert not rows[..., value_dim:].any()


@pytest.mark.parametrize("call", FUNCTIONS)
def test_what_is_read_is_of_the_range_alone(call: dict[str, Any]) -> None:
    query, key, value = (normal(4, length, 32, dtype=torch.float32, seed=n) for n, length in enumerate((60, 90, 90)))
    problem = posed(query, key, value, **call, readouts=(readouts.LogSumExp(), readouts.Entropy()))
    alone = engines.run(problem)
    output, lse = (normal(*own.shape, dtype=torch.float32, seed=9) for own in (alone.output, alone.lse))
    before = output.clone(), lse.clone()
    part = engines.joined(problem, output, lse)
    assert part is not None
    torch.testing.assert_close(part.lse, alone.lse)
    torch.testing.assert_close(part.readings["entropy"], alone.readings["entropy"], rtol=1e-5, atol=1e-5)
    both = torch.logaddexp(before[1], alone.lse)
    expected = before[0] * (before[1] - both).exp()[..., None] + alone.output * (alone.lse - both).exp()[..., None]
    torch.testing.assert_close(lse, both, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none(number: float) -> None:
    query, key, value = (normal(2, 40, 16, dtype=torch.float32, seed=n) for n in range(3))
    problem = posed(query, key, value)
    output, lse = torch.zeros(2, 40, 16), torch.zeros(2, 40)
    lse[0, 3] = torch.nan
    query[1, 5] = number
    engines.joined(problem, output, lse)
    lost = torch.zeros(2, 40, dtype=torch.bool)
    lost[0, 3] = lost[1, 5] = True
    assert torch.equal(output.isnan().any(-1), lost)
    assert torch.equal(lse.isnan(), lost)


@pytest.mark.parametrize("edge", [at_the_edge, after_the_edge])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_beyond_the_edge_is_touched(edge: Any, dtype: torch.dtype) -> None:
    def stays_inside() -> bool:
        guarded = Guarded(edge)
        for q_len, k_len, dim, value_dim in ((7, 13, 5, 3), (49, 257, 17, 33), (20, 20, 16, 48)):
            query, key = edge(torch.randn(4, q_len, dim).to(dtype)), edge(torch.randn(2, k_len, dim).to(dtype))
            value, output = edge(torch.randn(2, k_len, value_dim).to(dtype)), edge(torch.zeros(4, q_len, value_dim))
            lse = edge(torch.full((4, q_len), -torch.inf))
            read = readouts.LogSumExp(), readouts.Entropy()
            with torch.no_grad(), guarded:
                assert engines.joined(posed(query, key, value), output, lse) is not None
                assert engines.joined(posed(query, key, value, readouts=read), output, lse) is not None
            assert output.isfinite().all()
            assert lse.isfinite().all()
        return guarded.count > 2

    assert exit_code(forked(stays_inside), 120) == 0


def test_rows_of_another_shape_or_precision_are_refused() -> None:
    problem = posed(*(torch.zeros(2, 40, 16) for _ in range(3)))
    output, lse = torch.zeros(2, 40, 16), torch.zeros(2, 40)
    with pytest.raises(ValueError, match="output: "):
        engines.joined(problem, output[:, 1:], lse)
    with pytest.raises(ValueError, match="lse: "):
        engines.joined(problem, output, lse.double())
    with pytest.raises(ValueError, match="lse: "):
        engines.joined(problem, output, torch.zeros(40, 2).T)

"""DTensors at the face: whatever their placements, the same as plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor import Partial, Placement, Replicate, Shard

from tests.cases import examples
from tests.distributed import calls, cases
from tests.distributed.cases import Case
from tests.distributed.ranks import MESHES, Ranks


def assert_as_alone(ranks: Ranks, case: Case, shape: tuple[int, ...], placements: calls.Placements) -> None:
    each = ranks.run(calls.of_dtensors, case, shape, placements, ranks=torch.Size(shape).numel())
    expected = cases.alone(case)
    for found in each:
        lacking = [name for name in expected if name not in found]  # the gradients of what is no DTensor
        assert lacking == [f"d {n}" for n in cases.tensors_for(case) if n not in placements and f"d {n}" in expected]
        cases.assert_same(found, {name: t for name, t in expected.items() if name in found}, case.dtype)


@st.composite
def placements(draw: st.DrawFn, ndim: int, dims: int, is_sum: bool) -> list[Placement]:
    kinds = [Replicate(), *map(Shard, range(ndim)), *([Partial()] if is_sum else [])]
    return [draw(st.sampled_from(kinds)) for _ in range(dims)]


DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16)


def assert_any_is_as_alone(ranks: Ranks, data: Any, case: Case, shapes: Sequence[tuple[int, ...]] = MESHES) -> None:
    shape = data.draw(st.sampled_from(shapes))
    drawn = {}
    for name, tensor in cases.tensors_for(case).items():
        if name in ("query", "key", "value") or data.draw(st.booleans()):
            drawn[name] = data.draw(placements(tensor.ndim, len(shape), tensor.is_floating_point()))
    assert_as_alone(ranks, case, shape, drawn)


@pytest.mark.parametrize("length", [0, 1])
def test_a_sequence_without_heads_of_few_queries(ranks: Ranks, length: int) -> None:
    lies = {name: [Shard(0)] for name in ("query", "key", "value")}
    assert_as_alone(ranks, Case(length, length, (), None, 1), (2,), lies)


@examples(8)
@given(data=st.data(), case=cases.cases(DTYPES))
def test_any_call(ranks: Ranks, data: Any, case: Case) -> None:
    assert_any_is_as_alone(ranks, data, case)


@pytest.mark.thorough
@examples(12)
@given(data=st.data(), case=cases.cases(DTYPES))
def test_many_calls(ranks: Ranks, data: Any, case: Case) -> None:
    assert_any_is_as_alone(ranks, data, case)

"""A sequence on several ranks, each with positions of its own: the same as in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pellucid.distributed import Layout
from tests.cases import examples
from tests.distributed import calls, cases
from tests.distributed.cases import LAYOUTS, Case, Place
from tests.distributed.ranks import Ranks


def assert_as_alone(ranks: Ranks, case: Case, layout: Layout, key_layout: Layout) -> None:
    each = ranks.run(calls.of_sequence, case, layout, key_layout, ranks=layout.ranks)
    lies = {"queries": layout, "keys": key_layout}

    def joined(name: str, place: Place) -> Tensor:
        parts = [found[name][0] for found in each]
        if place.of:
            return cases.together(parts, lies[place.of], place.dim)
        assert all(torch.equal(part.nan_to_num(), parts[0].nan_to_num()) for part in parts), name
        return parts[0]

    found = {name: joined(name, place) for name, (_, place) in each[0].items()}
    # Each is rounded: what ranks and pieces have of a sum that all have.
    parts = max(len(key_layout.pieces), layout.ranks) if case.way == "ring" else 1
    cases.assert_same(found, cases.alone(case), case.dtype, rounded=parts)


DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16)


def assert_any_is_as_alone(ranks: Ranks, data: Any, case: Case, counts: Sequence[int] = (2, 3, 4, 1)) -> None:
    count = data.draw(st.sampled_from(counts))
    names = st.sampled_from(list(LAYOUTS))
    layout = LAYOUTS[data.draw(names)](case.q_len, count, case.seed)
    of_keys = layout
    if case.q_len != case.k_len or data.draw(st.booleans()):
        of_keys = LAYOUTS[data.draw(names)](case.k_len, count, case.seed + 1)
    assert_as_alone(ranks, case, layout, of_keys)


@examples(12)
@given(data=st.data(), case=cases.cases(DTYPES))
def test_any_call(ranks: Ranks, data: Any, case: Case) -> None:
    assert_any_is_as_alone(ranks, data, case)


@pytest.mark.thorough
@examples(20)
@given(data=st.data(), case=cases.cases(DTYPES))
def test_many_calls(ranks: Ranks, data: Any, case: Case) -> None:
    assert_any_is_as_alone(ranks, data, case)


def on_a_ring(data: Any, case: Case) -> Case:
    piece, followed = data.draw(st.sampled_from((3, 0, 1, 7))), data.draw(st.booleans())
    # Of few pairs each, sums over all of them cancel to less than what each is rounded by.
    followed = followed and not (piece and case.dtype == torch.bfloat16)
    return replace(case, way="ring", piece=piece, followed=followed)


@examples(8)
@given(data=st.data(), case=cases.cases(DTYPES))
def test_any_call_on_a_ring(ranks: Ranks, data: Any, case: Case) -> None:
    assert_any_is_as_alone(ranks, data, on_a_ring(data, case))


@pytest.mark.thorough
@examples(15)
@given(data=st.data(), case=cases.cases(DTYPES))
def test_many_calls_on_a_ring(ranks: Ranks, data: Any, case: Case) -> None:
    assert_any_is_as_alone(ranks, data, on_a_ring(data, case))

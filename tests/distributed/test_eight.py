"""Eight ranks: the numbers, gradients and readouts of one process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cases import examples
from tests.distributed import cases, test_placements, test_sequence
from tests.distributed.cases import Case
from tests.distributed.ranks import some
from tests.distributed.test_sequence import DTYPES
from tests.distributed.threads import COUNT, SHAPES, Threads


@pytest.fixture(scope="module")
def threads() -> Iterator[Threads]:
    made = Threads()
    yield made
    made.close()


def assert_any_is_as_alone(threads: Threads, data: Any, case: Case) -> None:
    test_sequence.assert_any_is_as_alone(threads, data, case, [COUNT])
    test_placements.assert_any_is_as_alone(threads, data, case, SHAPES)


@examples(2)
@given(data=st.data(), case=cases.cases(DTYPES))
def test_any_call(threads: Threads, data: Any, case: Case) -> None:
    assert_any_is_as_alone(threads, data, case)


@pytest.mark.thorough
@examples(3)
@given(data=st.data(), case=cases.cases(DTYPES))
def test_many_calls(threads: Threads, data: Any, case: Case) -> None:
    assert_any_is_as_alone(threads, data, case)


@pytest.mark.thorough
def test_many_calls_of_processes() -> None:
    with some(COUNT) as ranks:

        @examples(3)
        @given(data=st.data(), case=cases.cases(DTYPES), way=st.sampled_from(["", "ring"]))
        def test(data: Any, case: Case, way: str) -> None:
            test_sequence.assert_any_is_as_alone(ranks, data, replace(case, way=way), [COUNT])

        test()

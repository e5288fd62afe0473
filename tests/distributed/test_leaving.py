"""A rank that dies, or does not come: the others are told, and none waits longer than the group's time-out."""

from __future__ import annotations

import re
import time

import pytest

from tests.distributed import surroundings
from tests.distributed.ranks import Died, Outcome, some

LOST = r"LostRankError: attention: .*, and a rank could not be reached; it died, or has not come to the same call: "


def told_of(outcomes: list[Outcome]) -> list[str]:
    return [outcome.kind or outcome.value for outcome in outcomes]


@pytest.mark.parametrize("when", ["dies before", "dies before backward", "dies before weights"])
def test_a_rank_dies(when: str) -> None:
    with some(3, patience=6) as own:  # one notices at once; who waits for that one, as long as it may
        began = time.monotonic()
        first, second, last = told_of(own.outcomes(surroundings.leaving, when))
        assert last == Died.__name__
        assert time.monotonic() - began < 40
    for text in (first, second):
        assert re.match(LOST, text), text


@pytest.mark.parametrize("when", ["does not come", "has no loss"])
def test_a_rank_does_not_come(when: str) -> None:
    with some(2, patience=3) as own:
        first, last = told_of(own.outcomes(surroundings.leaving, when))
    assert re.match(LOST, first), first
    assert last == "nothing"


@pytest.mark.parametrize("when", ["dies before", "dies before backward"])
def test_a_rank_of_a_mesh_dies(when: str) -> None:
    with some(2) as own:
        first, last = told_of(own.outcomes(surroundings.leaving_dtensors, when))
    assert last == Died.__name__
    assert first != "nothing"

"""Every model of transformers computes under Pellucid what it computes alone, and what is not seen of it is listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases import EFFORT
from tests.sweep import classes
from tests.sweep.__main__ import apart
from tests.sweep.comparing import Outcome
from tests.thorough import ALL

DOCS = Path(__file__).parents[2] / "docs" / "watch.md"


PARTS = 8  # that the tenth is gone through in, by several processes
GONE_THROUGH = range(0, PARTS, 1 if EFFORT >= ALL else 4)


@pytest.mark.thorough
@pytest.mark.parametrize("part", GONE_THROUGH)
def test_a_fixed_part_of_all_classes(part: int) -> None:
    check([apart(name) for name in classes.names(classes.is_of_the_share)[part::PARTS]])


@pytest.mark.sweep
def test_all_classes(request: pytest.FixtureRequest) -> None:
    if "sweep" not in request.config.getoption("-m"):
        pytest.skip("it takes an hour; run with -m sweep")
    check([apart(name) for name in classes.names()])


def check(outcomes: list[Outcome]) -> None:
    built = [one for one in outcomes if one.is_built]
    assert len(built) > len(outcomes) / 2
    assert {one.name: one.differing for one in built if one.differing} == {}
    text = DOCS.read_text(encoding="utf-8")
    missed = {kind for one in built for kind in one.missed if kind}
    assert [kind for kind in sorted(missed) if f"`{kind}`" not in text] == []

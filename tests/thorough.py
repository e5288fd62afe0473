"""Which of a test's cases only .ci/run repeats: those that show once more what the others show."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import pytest

from tests.cases import EFFORT


def thorough(cases: Iterable[Any], every_day: Container[Any], share: int = 1) -> list[Any]:
    """The cases for `pytest.mark.parametrize`, those that are not `every_day` marked as thorough.

    Args:
        cases: all of them.
        every_day: those that any run has.
        share: of the others, one in so many is run at the usual effort; a PELLUCID_TEST_EFFORT of as many runs all.

    """
    made, left = [], 0
    for case in cases:
        if case in every_day:
            made.append(case)
            continue
        made.append(_marked(case, share if left % max(share // EFFORT, 1) else 1))
        left += 1
    return made


def in_turn(kinds: Iterable[Any], others: Sequence[Any], first: int = 0) -> list[tuple[Any, Any]]:
    """Each kind with one of the others, which take turns: all of both, in place of all pairs."""
    return [(kind, others[(first + number) % len(others)]) for number, kind in enumerate(kinds)]


def _marked(case: Any, effort: int) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    told = f"only with PELLUCID_TEST_EFFORT={effort}"
    skipped = [pytest.mark.skip(reason=told)] if effort > 1 else []
    return pytest.param(*values, marks=[pytest.mark.thorough, *skipped])

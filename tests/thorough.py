"""Which of a test's cases only .ci/run repeats: those that show once more what the others show."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any
from zlib import crc32

import pytest

from tests.cases import EFFORT

ALL = 4  # the effort that leaves nothing out
WHY = f"only with PELLUCID_TEST_EFFORT={ALL}"
SPARING = 8  # how many times fewer of a share .ci/run has time for


def thorough(cases: Iterable[Any], every_day: Container[Any], share: int = 1) -> list[Any]:
    """The cases for `pytest.mark.parametrize`, those that are not `every_day` marked as thorough.

    Args:
        cases: all of them.
        every_day: those that any run has.
        share: of the others, one in so many times `SPARING` is run at the usual effort, and all with
            PELLUCID_TEST_EFFORT=4. Where the cases are a product, no number that shares a factor with the count of a
            side: it would choose the same of it each time.

    """
    made, left = [], 0
    apart = max(share * (SPARING if share > 1 else 1) // EFFORT, 1)
    for case in cases:
        if case in every_day:
            made.append(case)
            continue
        made.append(_marked(case, skipped=EFFORT < ALL and left % apart > 0))
        left += 1
    return made


def in_turn(kinds: Iterable[Any], others: Sequence[Any], first: int = 0) -> list[tuple[Any, Any]]:
    """Each kind with one of the others, which take turns: all of both, in place of all pairs."""
    return [(kind, others[(first + number) % len(others)]) for number, kind in enumerate(kinds)]


def sample(items: Sequence[pytest.Item]) -> None:
    """Mark as thorough most cases of tests that are `sampled`: those whose names come last in an order by chance.

    By their names, so that any machine and any worker takes the same, and of each dimension of a product some.
    """
    of_test: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("thorough"):
            of_test.setdefault(item.nodeid.split("[")[0], []).append(item)
    left = 0
    for cases in of_test.values():
        cases.sort(key=lambda item: crc32(item.nodeid.encode()))
        compiled = [item for item in cases if "cpu" in item.name]  # one of which every run has
        kept = {*cases[: -(-len(cases) // 5)], *compiled[:1]}
        for item in cases:
            if item not in kept:
                skipped = EFFORT < ALL and left % (8 * SPARING // EFFORT) > 0
                item.add_marker(pytest.mark.thorough)
                item.add_marker(pytest.mark.skipif(skipped, reason=WHY))
                left += 1


def _marked(case: Any, skipped: bool) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=[pytest.mark.thorough, pytest.mark.skipif(skipped, reason=WHY)])

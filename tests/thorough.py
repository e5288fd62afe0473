"""Which of a test's cases only .ci/run repeats: those that show once more what the others show."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def thorough(cases: Iterable[Any], every_day: Container[Any]) -> list[Any]:
    """The cases for `pytest.mark.parametrize`, those that are not `every_day` marked as thorough."""
    return [case if case in every_day else _marked(case) for case in cases]


def _marked(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.thorough)

"""What a piece of work is: a race between contenders, or a measurement of quantities of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.goals import Goal, Within
from benchmarks.task import Task


@dataclass(frozen=True)
class Entry:
    """A contender and its task, which is made only when the race is run, once for the entries that name the same."""

    contender: str  # its NAME
    task: Callable[[], Task]
    label: str = ""  # where one contender has several entries
    units: float = 1.0  # times are divided by it, for instance to be times a token

    @property
    def name(self) -> str:
        """How it is called in the table."""
        return self.label or self.contender


@dataclass(frozen=True)
class Race:
    """Entries that take turns; the first is ours.

    `amount` is what one of our calls does, in floating-point operations (a multiply-add is two, and only allowed pairs
    of query and key count) or bytes that must be read; `limit` names what bounds it, in limits.LIMITS.
    """

    name: str
    entries: tuple[Entry, ...]
    goals: tuple[Goal, ...] = ()
    amount: float = 0.0
    unit: str = "FLOP"
    limit: str = ""


@dataclass(frozen=True)
class Measurement:
    """A function that measures quantities, by name with unit, on its own."""

    name: str
    run: Callable[[], Mapping[str, float]]
    goals: tuple[Within, ...] = ()


Work = Race | Measurement

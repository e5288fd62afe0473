"""What was measured: times of contenders in turns, and single quantities."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Times:
    """Seconds of one contender, a number a round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """The median round."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half of the middle half's width, relative to the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median


@dataclass(frozen=True)
class Limit:
    """What the machine can do of a kind of work: operations or bytes a second."""

    name: str
    per_second: float


@dataclass
class Raced:
    """One piece of work, by the labels of its contenders; the first is ours, or has no number either."""

    name: str
    labels: list[str]
    amount: float  # floating-point operations, or bytes read
    unit: str  # "FLOP" or "B"
    limit: Limit | None
    timed: dict[str, Times] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    allowed: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # wrong, or failed: no number
    absent: dict[str, str] = field(default_factory=dict)  # not installed, or does not do this work
    notes: list[str] = field(default_factory=list)

    @property
    def ours(self) -> str:
        """The label that ratios are relative to."""
        return self.labels[0]

    def why_not(self, label: str) -> str:
        """Why there is no ratio to `label`; empty where there is one."""
        for name in (self.ours, label):
            if name not in self.timed:
                return f"{name}: {self.reason(name)}"
        return ""

    def reason(self, label: str) -> str:
        """Why a contender has no number."""
        return (self.refused | self.absent).get(label, "not timed")

    def ratio(self, label: str) -> float:
        """How many times as long as ours a contender takes: the median of the rounds' ratios."""
        pairs = zip(self.timed[self.ours].seconds, self.timed[label].seconds, strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)

    def cost(self, label: str) -> float:
        """How many times as long as a contender ours takes: the median of the rounds' ratios."""
        pairs = zip(self.timed[self.ours].seconds, self.timed[label].seconds, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    def rate(self, label: str) -> float | None:
        """Operations or bytes a second."""
        return self.amount / self.timed[label].median if self.amount and label in self.timed else None

    def share(self, label: str) -> float | None:
        """The rate as a part of the limit."""
        rate = self.rate(label)
        return rate / self.limit.per_second if rate and self.limit else None


@dataclass(frozen=True)
class Measured:
    """Quantities by name, each name ending in its unit; or why there are none."""

    name: str
    values: dict[str, float]
    refused: str = ""
    notes: tuple[str, ...] = ()

"""What a piece of work should reach, and whether it did.

A goal is judged by what was measured in the same run. Where that is missing, because a peer is not installed or was
wrong, the verdict is open and says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from benchmarks.results import Raced


class Verdict(NamedTuple):
    """A goal beside what was measured. `met` is None where it could not be judged."""

    goal: str
    bound: float
    at_least: bool
    beside: str  # the contender or quantity in whose line it is printed
    measured: float | None
    met: bool | None
    reason: str = ""


class Goal(Protocol):
    """Judges a race."""

    def judge(self, raced: Raced) -> Verdict:
        """Whether it is met."""


@dataclass(frozen=True)
class Faster:
    """Ours takes at most 1 / `times` of what another takes."""

    times: float
    than: str

    def judge(self, raced: Raced) -> Verdict:
        asked = (f"≥ {self.times:g} × {self.than}", self.times, True)
        if reason := raced.why_not(self.than):
            return Verdict(*asked, self.than, None, None, reason)
        ratio = raced.ratio(self.than)
        return Verdict(*asked, self.than, ratio, ratio >= self.times)


@dataclass(frozen=True)
class FasterOrShare:
    """Ours takes at most 1 / `times` of what another takes, or else reaches a part of what the machine can do."""

    times: float
    than: str
    least: float

    def judge(self, raced: Raced) -> Verdict:
        faster, share = Faster(self.times, self.than).judge(raced), Share(self.least).judge(raced)
        asked = f"{faster.goal} or {share.goal}"
        if not faster.met and share.met:
            return share._replace(goal=f"{asked}: the limit")
        return faster._replace(goal=f"{asked}: the ratio" if faster.met else asked)


@dataclass(frozen=True)
class FasterThanAny:
    """The same against whichever of the others took least."""

    times: float

    def judge(self, raced: Raced) -> Verdict:
        others = [name for name in raced.timed if name != raced.ours]
        asked = (f"≥ {self.times:g} × the fastest peer", self.times, True)
        if not others or raced.why_not(others[0]):
            return Verdict(*asked, raced.ours, None, None, raced.why_not(raced.ours) or "no peer was timed")
        fastest = min(others, key=lambda name: raced.timed[name].median)
        ratio = raced.ratio(fastest)
        return Verdict(*asked, fastest, ratio, ratio >= self.times)


@dataclass(frozen=True)
class Costs:
    """Ours takes at most `times` as long as another."""

    times: float
    than: str

    def judge(self, raced: Raced) -> Verdict:
        asked = (f"takes ≤ {self.times:g} × {self.than}", self.times, False)
        if reason := raced.why_not(self.than):
            return Verdict(*asked, self.than, None, None, reason)
        cost = raced.cost(self.than)
        return Verdict(*asked, self.than, cost, cost <= self.times)


@dataclass(frozen=True)
class Share:
    """Ours reaches a part of what the machine can do."""

    least: float

    def judge(self, raced: Raced) -> Verdict:
        asked = (f"≥ {self.least:.0%} of the limit", self.least, True)
        share = raced.share(raced.ours)
        if share is None:
            return Verdict(*asked, raced.ours, None, None, raced.why_not(raced.ours) or "the limit was not measured")
        return Verdict(*asked, raced.ours, share, share >= self.least)


@dataclass(frozen=True)
class Within:
    """A quantity of a measurement, at most or at least something."""

    quantity: str
    most: float | None = None
    least: float = 0.0

    def judge(self, values: dict[str, float]) -> Verdict:
        """Whether it is met by the quantities, by name with unit."""
        at_least = self.most is None
        bound = self.least if self.most is None else self.most
        asked = (f"{'≥' if at_least else '≤'} {bound:g}", bound, at_least)
        value = values.get(self.quantity)
        if value is None:
            return Verdict(*asked, self.quantity, None, None, "not measured")
        return Verdict(*asked, self.quantity, value, value >= bound if at_least else value <= bound)

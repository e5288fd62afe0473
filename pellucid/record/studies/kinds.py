"""What kind of head it is, and the number that says so.

The kinds are tried in order, and the first whose number reaches its threshold is taken; docs/numerics.md lists them.
What a head parks on the sink hides what it does with the rest, so the kind is told twice: of the whole, where the sink
comes first, and of what is beyond the sink.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan, nan
from typing import NamedTuple

SINK = 0.9
PREVIOUS = 0.5
INDUCTION = 0.3
DUPLICATE = 0.3
LOCAL = 0.6
FOCUSED = 0.35
DIFFUSE = 0.85


class Kind(NamedTuple):
    """A kind, and the number that decided it, in words."""

    name: str
    because: str


@dataclass(frozen=True)
class Rest:
    """The numbers of a head beyond the sink that a kind is read from; NaN where not known.

    Attributes:
        previous: share of the weight on the token before, 0 to 1.
        induction: share on what follows another occurrence of the query's token.
        duplicate: share on other occurrences of the query's token.
        nearby: share on keys at most 4 places away.
        relative_entropy: entropy over that of equal weights, 0 to 1.

    """

    previous: float = nan
    induction: float = nan
    duplicate: float = nan
    nearby: float = nan
    relative_entropy: float = nan


_RULES: tuple[tuple[str, str, Callable[[Rest], bool], Callable[[Rest], float]], ...] = (
    ("previous token", "on the token before", lambda r: r.previous >= PREVIOUS, lambda r: r.previous),
    (
        "induction",
        "on what follows the same token",
        lambda r: r.induction >= INDUCTION and not r.duplicate > r.induction,
        lambda r: r.induction,
    ),
    ("duplicate", "on the same token", lambda r: r.duplicate >= DUPLICATE, lambda r: r.duplicate),
    ("local", "on nearby tokens", lambda r: r.nearby >= LOCAL, lambda r: r.nearby),
    (
        "focused",
        "of the entropy of equal weights",
        lambda r: r.relative_entropy <= FOCUSED,
        lambda r: r.relative_entropy,
    ),
    (
        "diffuse",
        "of the entropy of equal weights",
        lambda r: r.relative_entropy >= DIFFUSE,
        lambda r: r.relative_entropy,
    ),
)


def kind_beyond_sink(rest: Rest) -> Kind:
    """The kind of what a head does with the weight that it does not park; "mixed" if no other fits."""
    for name, where, fits, number in _RULES:
        if fits(rest):
            return Kind(name, f"{number(rest):.2f} {where}")
    if isnan(rest.relative_entropy):
        return Kind("unknown", "nothing is left, or its readouts were not read")
    return Kind("mixed", f"{rest.relative_entropy:.2f} of the entropy of equal weights")


def kind(sink: float, rest: Rest) -> Kind:
    """The kind of the whole head: "sink" where the learned sink and the first token take most of the weight."""
    return Kind("sink", f"{sink:.2f} on the sink") if sink >= SINK else kind_beyond_sink(rest)

"""What kind of head each is over a corpus, and how sure that is: from the kinds that it is in the documents.

A head has a kind in each document, by the rules of one record. Its kind over the corpus is the one that it has in most
of those that tell, and the share of the documents in which it has it says how constant it is. docs/profiles.md says
what is assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pellucid.profiles.studies.intervals import wilson
from pellucid.profiles.sums import KINDS

if TYPE_CHECKING:
    from pellucid.profiles.profile import Profile

UNKNOWN = "unknown"


@dataclass(frozen=True)
class CorpusKind:
    """The kind of a head over the documents.

    Attributes:
        name: the kind of most documents; "unknown" where no document tells.
        share: of the documents that tell, those in which it is of that kind.
        low: the least that this share is, with a confidence of 95 % (Wilson).
        high: the most.
        documents: how many tell.
        second: the kind of most of the others; None where there is no other.
        second_share: of the documents that tell, those.
        leads: whether the first kind is ahead of the second beyond chance: of the documents that are of either, the
            interval of its share lies above one half.
        counts: the documents of each kind, also of those that do not tell, by kind.

    """

    name: str
    share: float
    low: float
    high: float
    documents: int
    second: str | None
    second_share: float
    leads: bool
    counts: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """The same in plain values."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return plain | {"counts": dict(self.counts)}

    def __str__(self) -> str:
        """In words: `induction in 93 % of 412 documents (90 to 95)`."""
        return f"{self.name} in {self.because}" if self.documents else UNKNOWN

    @property
    def because(self) -> str:
        """The share in words."""
        if not self.documents:
            return "no document tells"
        percents = [round(100 * value) for value in (self.share, self.low, self.high)]
        some = "1 document" if self.documents == 1 else f"{self.documents:,} documents"
        then = "" if self.leads or self.second is None else f"; {self.second} may be ahead"
        return f"{percents[0]} % of {some} ({percents[1]} to {percents[2]}){then}"


_PLAIN = ("name", "share", "low", "high", "documents", "second", "second_share", "leads")


def corpus_kinds(profile: Profile, *, without_sink: bool = False) -> list[CorpusKind]:
    """The kind of each head over the documents, with its confidence, in the order of `profile.heads`.

    Args:
        profile: of the documents.
        without_sink: the kind of what is beyond the sink.

    """
    return [_kind(row) for row in profile.kinds(without_sink=without_sink).tolist()]


def _kind(row: Sequence[int]) -> CorpusKind:
    counts = {name: count for name, count in zip(KINDS, row, strict=True) if count}
    known = {name: count for name, count in counts.items() if name != UNKNOWN}
    total = sum(known.values())
    if not total:
        return CorpusKind(UNKNOWN, 0.0, 0.0, 1.0, 0, None, 0.0, False, counts)
    first, *rest = sorted(known, key=lambda name: (-known[name], KINDS.index(name)))
    second = rest[0] if rest else None
    either = known[first] + (known[second] if second else 0)
    return CorpusKind(
        first,
        known[first] / total,
        *wilson(known[first], total),
        total,
        second,
        known[second] / total if second else 0.0,
        wilson(known[first], either).low > 0.5,
        counts,
    )

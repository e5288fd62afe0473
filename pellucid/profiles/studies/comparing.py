"""Two profiles head by head: two models, or checkpoints of one, and how sure each difference is.

A number of a head has a value in each document; what is compared are its means over the documents, by Welch's t test,
which takes the documents as independent and the two spreads as unlike. docs/profiles.md says what that means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid import legible
from pellucid.profiles.layout import HeadName
from pellucid.profiles.numbers import NUMBERS, number_of
from pellucid.profiles.studies.corpus_kinds import CorpusKind, corpus_kinds
from pellucid.profiles.studies.intervals import holm, student, student_bound
from pellucid.profiles.studies.pairing import Pairing, paired

if TYPE_CHECKING:
    from pellucid.profiles.profile import Profile

SURE = 0.05
_ROUNDING = 1e-6  # of a mean: what float32 may make of one number in two runs


@dataclass(frozen=True)
class Difference:
    """A number of a head in both profiles. What no document tells is NaN.

    Attributes:
        number: its name.
        a: its mean over the documents of the first.
        b: of the second.
        difference: b less a.
        low: the least that it is, with a confidence of 95 %; NaN where one has fewer than two documents.
        high: the most.
        size: the difference over the spread of the documents (Cohen's d); infinite where they are all alike.
        documents: of both, those in which the number means something.
        probability: of a difference as large by chance, corrected for all that are compared (Holm).
        sure: whether that is below 5 %.

    """

    number: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    size: float
    documents: tuple[int, int]
    probability: float
    sure: bool

    def as_json(self) -> dict[str, Any]:
        """The same in plain values, NaN and infinity as None."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        finite = {name: value if abs(value) < torch.inf else None for name, value in plain.items()}
        return finite | {"documents": list(self.documents), "sure": self.sure}


_PLAIN = ("a", "b", "difference", "low", "high", "size", "probability")


@dataclass(frozen=True)
class ComparedHead:
    """A head in both profiles.

    Attributes:
        a: its name in the first.
        b: in the second.
        layer: the number of its layer in the first, counted from 0.
        kinds: what it is beyond the sink, in each.
        whole_kinds: what it is as a whole, in each.
        differences: of every number, by name.

    """

    a: HeadName
    b: HeadName
    layer: int
    kinds: tuple[CorpusKind, CorpusKind]
    whole_kinds: tuple[CorpusKind, CorpusKind]
    differences: dict[str, Difference]

    @property
    def strongest(self) -> Difference:
        """What differs most for the spread that it has: a sure difference if there is one."""
        return max(self.differences.values(), key=_weight)

    @property
    def changed_kind(self) -> bool:
        """Whether it is of another kind beyond the sink, and in both ahead of any other beyond chance."""
        one, other = self.kinds
        return one.name != other.name and one.leads and other.leads


def _weight(one: Difference) -> tuple[bool, float]:
    return one.sure, -1.0 if isnan(one.size) else abs(one.size)


@dataclass(frozen=True)
class Comparison:
    """Two profiles, head by head.

    Attributes:
        heads: those that both have, in the order of the first.
        only_a: those that the second has not.
        only_b: those that the first has not.
        notes: what must be known to read it: other settings, other documents, heads matched by place.

    """

    heads: tuple[ComparedHead, ...]
    only_a: tuple[HeadName, ...]
    only_b: tuple[HeadName, ...]
    notes: tuple[str, ...]

    def sorted(self, by: str | None = None) -> Comparison:
        """The heads by how much they differ in one number, sure ones first; if None, in what each differs most in.

        Raises:
            ValueError: there is no such number.

        """
        if by is not None:
            number_of(by)

        def weight(head: ComparedHead) -> tuple[bool, float]:
            return _weight(head.differences[by] if by else head.strongest)

        return replace(self, heads=tuple(sorted(self.heads, key=weight, reverse=True)))


def compared(a: Profile, b: Profile) -> Comparison:
    """Every head of two profiles: b less a in each number, with its confidence.

    Heads are the same where their layer is called the same; in models of another make, whose layers are as many and
    have as many heads, where they stand at the same place.

    Raises:
        ValueError: they have no head in common.

    """
    pairing = paired(a, b)
    kinds = [corpus_kinds(one, without_sink=True) for one in (a, b)]
    whole = [corpus_kinds(one) for one in (a, b)]
    differences = _differences(a, b, pairing)
    layers = list(dict.fromkeys(head.layer for head in a.heads))
    heads = tuple(
        ComparedHead(
            a.heads[i],
            b.heads[j],
            layers.index(a.heads[i].layer),
            (kinds[0][i], kinds[1][j]),
            (whole[0][i], whole[1][j]),
            of_head,
        )
        for i, j, of_head in zip(pairing.a, pairing.b, differences, strict=True)
    )
    only_a, only_b = (
        tuple(head for place, head in enumerate(one.heads) if place not in set(used))
        for one, used in ((a, pairing.a), (b, pairing.b))
    )
    return Comparison(heads, only_a, only_b, tuple(_notes(a, b, pairing)))


# Notes.


def _notes(a: Profile, b: Profile, pairing: Pairing) -> Iterator[str]:
    if pairing.by_place:
        yield "the layers are called otherwise: heads are matched by their place"
    settings = [one.layout.settings for one in (a, b)]
    for name in sorted({*settings[0], *settings[1]}):
        one, other = (each.get(name) for each in settings)
        if one != other:
            yield legible.message(f"the settings {name!r} differ: {one} and {other}")
    read = [{corpus.identity: corpus.done for corpus in one.corpora} for one in (a, b)]
    if read[0] == read[1]:
        yield "both read the same documents, which the intervals take as independent: as a rule they are too wide"
    else:
        yield "they read other documents: what differs may be the documents"
    for which, one in (("first", a), ("second", b)):
        if not one.complete:
            yield f"the {which} has not read its corpus to the end"


# Numbers.


def _differences(a: Profile, b: Profile, pairing: Pairing) -> list[dict[str, Difference]]:
    """The differences of each pair of heads, in order."""
    *parts, probability = _welch(_of(a, pairing.a), _of(b, pairing.b))
    rows = torch.stack([*parts, holm(probability)], -1).tolist()  # of each head and number
    return [dict(zip(NUMBERS, map(_difference, NUMBERS, of_head), strict=True)) for of_head in rows]


def _difference(number: str, row: list[float]) -> Difference:
    a, b, difference, low, high, size, one, other, probability = row
    sure = not isnan(probability) and probability < SURE
    return Difference(number, a, b, difference, low, high, size, (int(one), int(other)), probability, sure)


def _of(profile: Profile, places: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Documents, mean and variance of a sample, of some heads, float64 [heads, numbers]."""
    found = [profile.statistics(number) for number in NUMBERS]
    documents, mean, variance = (
        torch.stack([getattr(one, name)[places].double() for one in found], -1)
        for name in ("documents", "mean", "variance")
    )
    return documents, mean, torch.where(documents > 1, variance * documents / (documents - 1), nan)


def _welch(one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Means, their difference, its interval and size, documents, and the probability of it by chance."""
    (n, mean, variance), (m, other_mean, other_variance) = one, other
    difference = other_mean - mean
    parts = variance / n, other_variance / m
    error = (parts[0] + parts[1]).sqrt()
    freedom = (parts[0] + parts[1]).square() / (parts[0].square() / (n - 1) + parts[1].square() / (m - 1))
    nothing = difference.abs() <= _ROUNDING * torch.maximum(mean.abs(), other_mean.abs()) + 1e-9
    alike = error == 0
    bound = student_bound(torch.where(alike, 1.0, freedom)) * error
    t = torch.where(alike, torch.where(nothing, 0.0, torch.inf), difference / error)
    probability = torch.where(alike, (~(t > 0)).double(), student(t, torch.where(alike, 1.0, freedom)))
    probability = torch.where(error.isnan(), nan, torch.where(nothing, 1.0, probability))
    spread = (((n - 1) * variance + (m - 1) * other_variance) / (n + m - 2)).sqrt()
    size = torch.where(nothing, 0.0, difference / spread)
    bound = torch.where(error.isnan(), nan, torch.where(alike, 0.0, bound))
    return mean, other_mean, difference, difference - bound, difference + bound, size, n, m, probability

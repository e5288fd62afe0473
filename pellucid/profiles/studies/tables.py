"""A profile in plain values: every number of every head over the documents, and what a command prints as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pellucid.profiles.numbers import NUMBERS
from pellucid.profiles.studies.corpus_kinds import corpus_kinds
from pellucid.profiles.studies.passages import passages

if TYPE_CHECKING:
    from pellucid.profiles.layout import HeadName
    from pellucid.profiles.listing import Example
    from pellucid.profiles.profile import Masses, Profile

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
Json = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """A number of a head over the documents; NaN where it means something in none.

    Attributes:
        documents: in how many it means something.
        mean: over them.
        spread: the standard deviation over them.
        least: of all.
        most: of all.
        quantiles: the values below which SHARES of them lie, each within 1 % of itself.

    """

    documents: int
    mean: float
    spread: float
    least: float
    most: float
    quantiles: tuple[float, ...]

    def as_json(self) -> Json:
        """The same in plain values, NaN as None."""
        return {
            "documents": self.documents,
            **{name: plain(getattr(self, name)) for name in ("mean", "spread", "least", "most")},
            "quantiles": {f"{share:g}": plain(value) for share, value in zip(SHARES, self.quantiles, strict=True)},
        }


def spreads(profile: Profile, number: str) -> list[Spread]:
    """A number of every head, in the order of `profile.heads`."""
    found = profile.statistics(number)
    quantiles = profile.quantiles(number, SHARES).tolist()
    rows = zip(*(part.tolist() for part in found), quantiles, strict=True)
    return [Spread(n, mean, sqrt(variance), least, most, tuple(own)) for n, mean, variance, least, most, own in rows]


def layer_numbers(profile: Profile) -> list[int]:
    """The number of the layer of each head, counted from 0."""
    places = {name: number for number, name in enumerate(dict.fromkeys(head.layer for head in profile.heads))}
    return [places[head.layer] for head in profile.heads]


def plain(value: float) -> float | None:
    """A number as JSON has it: None for what is none."""
    return value if isfinite(value) else None


# As JSON.


def profile_json(profile: Profile) -> Json:
    """What was read, and how: all that is not of a head."""
    return {
        "model": profile.model,
        "identity": profile.identity,
        "complete": profile.complete,
        "documents": profile.documents,
        "settings": profile.layout.settings,
        "written_by": list(profile.written_by),
        "corpora": [corpus.as_json() for corpus in profile.corpora],
    }


def heads_json(profile: Profile, places: list[int]) -> list[Json]:
    """Some heads: their kinds and every number."""
    numbers = {number: spreads(profile, number) for number in NUMBERS}
    kinds, rest = corpus_kinds(profile), corpus_kinds(profile, without_sink=True)
    layers = layer_numbers(profile)
    return [
        {
            "layer": layers[place],
            "module": profile.heads[place].layer,
            "role": profile.heads[place].role,
            "head": profile.heads[place].head,
            "kind": kinds[place].as_json(),
            "kind_without_sink": rest[place].as_json(),
            "numbers": {number: own[place].as_json() for number, own in numbers.items()},
        }
        for place in places
    ]


class Mass(NamedTuple):
    """The mean weight of a row on keys of one kind, and what equal weights would put there."""

    name: str
    mass: float
    equal: float | None


class Where(NamedTuple):
    """Where the weight of every head goes.

    Attributes:
        by_distance: [heads, bands].
        on_classes: [heads, classes].
        by_position: [heads, 16, 16].
        roles: of each head.

    """

    by_distance: Masses
    on_classes: Masses
    by_position: Tensor
    roles: list[str]

    def as_json(self, place: int) -> Json:
        """That of one head in plain values; only the kinds of keys that there were."""
        return {
            "by_distance": [one._asdict() for one in self.distances(place)],
            "on_classes": [one._asdict() for one in self.classes(place)],
            "by_position": [[plain(value) for value in row] for row in self.by_position[place].tolist()],
        }

    def distances(self, place: int) -> list[Mass]:
        """The distances of a head, those ahead first; of a causal one not those ahead, which it cannot see."""
        causal = self.roles[place] == "causal self"
        return [one for one in _masses(self.by_distance, place) if one.mass or not (causal and one.name[0] == "-")]

    def classes(self, place: int) -> list[Mass]:
        """The token classes of a head."""
        return _masses(self.on_classes, place)


def where(profile: Profile) -> Where:
    """By distance, on token classes, and by position."""
    roles = [head.role for head in profile.heads]
    return Where(profile.by_distance(), profile.on_classes(), profile.by_position(), roles)


def _masses(masses: Masses, place: int) -> list[Mass]:
    """The kinds of keys of which there were any."""
    found = zip(masses.names, masses.mass[place].tolist(), masses.equal[place].tolist(), strict=True)
    return [Mass(name, mass, plain(equal)) for name, mass, equal in found if isfinite(mass) and equal != 0]


def examples_json(profile: Profile, place: int, number: str) -> Json:
    """The strongest of a head by a number, with their text."""
    return {
        "number": number,
        "documents": [example_json(one) for one in profile.strongest_documents(place, number)],
        "queries": [example_json(one) for one in profile.strongest_queries(place, number)],
        "keys": [example_json(one) for one in profile.strongest_keys(place)],
        "sequences": [example_json(one) for one in profile.sequences(place)],
    }


def example_json(example: Example) -> Json:
    """One of the strongest, its text as passages: `[position, token, weight, is the query, is the key]` a token."""
    document = example.document
    return {
        "value": plain(example.value),
        "document": {"corpus": document.corpus, "number": document.number, "name": document.name},
        "length": document.length,
        "query": example.query,
        "query_token": example.query_token,
        "key": example.key,
        "key_token": example.key_token,
        "weight": plain(example.weight),
        "passages": [passage.as_json() for passage in passages(example)],
    }


# By kind.

_TELLING = {
    "sink": "sink",
    "previous token": "previous_without_sink",
    "induction": "induction_without_sink",
    "duplicate": "duplicate_without_sink",
    "local": "nearby_without_sink",
    "focused": "concentration_without_sink",
    "diffuse": "relative_entropy_without_sink",
    "mixed": "relative_entropy_without_sink",
}


def telling_number(kind: str) -> str:
    """The number by which the strongest of a head of a kind show best what it does."""
    return _TELLING.get(kind, "first_mass")


def head_of(profile: Profile, layer: int, head: int) -> int:
    """The place of a head.

    Args:
        profile: in which it is.
        layer: the number of its layer, counted from 0.
        head: its number in the model.

    Raises:
        ValueError: there is none; the message begins with the name of what is wrong.

    """
    places = places_of(profile, layer)
    found = [place for place in places if profile.heads[place].head == head]
    if not found:
        known = spans([profile.heads[place].head for place in places])
        raise ValueError(f"head: layer {layer} has {known}, got {head}")
    return found[0]


def places_of(profile: Profile, layer: int | None) -> list[int]:
    """The places of the heads of a layer, counted from 0; of all heads if None.

    Raises:
        ValueError: there is no such layer.

    """
    layers = layer_numbers(profile)
    if layer is None:
        return list(range(len(layers)))
    if layer not in layers:
        known = f"has layers {spans(sorted(set(layers)))}" if layers else "has no layer: no document was read"
        raise ValueError(f"layer: the profile {known}, got {layer}")
    return [place for place, own in enumerate(layers) if own == layer]


def spans(numbers: list[int]) -> str:
    """Numbers in few words: `0-3, 7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def ordered(profile: Profile, places: list[int], number: str | None) -> list[int]:
    """Heads by the mean of a number over the documents, most first, NaN last; as they are if None."""
    if number is None:
        return places
    means = profile.statistics(number).mean[places]
    order = torch.where(means.isnan(), -torch.inf, means).argsort(descending=True, stable=True)
    return [places[at] for at in order.tolist()]


def title_of(head: HeadName, layer: int) -> str:
    """A head in a few words."""
    return f"layer {layer}, head {head.head}, {head.role}"

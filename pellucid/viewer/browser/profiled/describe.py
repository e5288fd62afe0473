"""What the page is told of a profile: every head in numbers over the documents, one head in full, its strongest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

from pellucid._version import __version__
from pellucid.profiles.numbers import NUMBERS
from pellucid.profiles.profile import Profile
from pellucid.profiles.studies import tables
from pellucid.profiles.studies.corpus_kinds import CorpusKind, corpus_kinds
from pellucid.profiles.studies.tables import SHARES, Spread
from pellucid.record.studies.summary import PAIRED
from pellucid.viewer.browser.describe import TITLES

Json = dict[str, Any]
DIGITS = 6  # of a number in the page
STATISTICS = ("mean", "median", "spread", "5 %", "95 %")


@dataclass(frozen=True)
class Described:
    """A profile, and what follows from it once.

    Attributes:
        profile: of a corpus.
        title: what the page calls it.

    """

    profile: Profile
    title: str

    @cached_property
    def spreads(self) -> dict[str, list[Spread]]:
        """Every number of every head."""
        return {number: tables.spreads(self.profile, number) for number in NUMBERS}

    @cached_property
    def kinds(self) -> dict[str, list[CorpusKind]]:
        """Every head's kind, `with` the sink and `without`."""
        return {"with": corpus_kinds(self.profile), "without": corpus_kinds(self.profile, without_sink=True)}

    @cached_property
    def where(self) -> tables.Where:
        """Where the weight of every head goes."""
        return tables.where(self.profile)

    def whole(self) -> Json:
        """All that is shown of all heads together."""
        return {
            "pellucid": __version__,
            "title": self.title,
            **tables.profile_json(self.profile),
            "layers": self._layers(),
            "statistics": {name: self._values(name) for name in STATISTICS},
            "numbers": self._numbers(),
            "left_out": [],
        }

    def _layers(self) -> list[Json]:
        layers = enumerate(self.profile.layout.layers)
        return [
            {"number": number, "name": layer.name, "role": layer.role, "head_numbers": list(layer.heads), "map": True}
            for number, layer in layers
        ]

    def _values(self, statistic: str) -> Json:
        return {number: [rounded(_statistic(one, statistic)) for one in own] for number, own in self.spreads.items()}

    def _numbers(self) -> Json:
        """Whose the numbers are, in the order of all lists, and each head's kind."""
        places = [place for layer in self.profile.layout.layers for place in range(len(layer.heads))]
        whole, rest = self.kinds["with"], self.kinds["without"]
        return {
            "layer": tables.layer_numbers(self.profile),
            "head": places,
            "kind": [kind.name for kind in whole],
            "because": [kind.because for kind in whole],
            "kind_without_sink": [kind.name for kind in rest],
            "because_without_sink": [kind.because for kind in rest],
            "paired": list(PAIRED),
            "titles": _titles(),
        }

    def head(self, place: int) -> Json:
        """All of one head but the examples that are by a number."""
        profile = self.profile
        rest = self.kinds["without"][place]
        return {
            "kinds": {name: own[place].as_json() for name, own in self.kinds.items()},
            "numbers": {number: self._number(place, number) for number in NUMBERS},
            "telling": tables.telling_number(rest.name),
            **self.where.as_json(place),
            "keys": [tables.example_json(one) for one in profile.strongest_keys(place)],
            "sequences": [tables.example_json(one) for one in profile.sequences(place)],
        }

    def _number(self, place: int, number: str) -> Json:
        """A number of a head, with the bins from the first that is not empty to the last."""
        edges, counts = self.profile.histogram(number)
        own = counts[place].tolist()
        taken = [at for at, count in enumerate(own) if count] or [0]
        bins = slice(taken[0], taken[-1] + 1)
        histogram = {"edges": edges.tolist()[bins.start : bins.stop + 1], "counts": own[bins]}
        return self.spreads[number][place].as_json() | {"histogram": histogram}

    def examples(self, place: int, number: str) -> Json:
        """The strongest documents and queries of a head by a number."""
        return {
            "documents": [tables.example_json(one) for one in self.profile.strongest_documents(place, number)],
            "queries": [tables.example_json(one) for one in self.profile.strongest_queries(place, number)],
        }


def _titles() -> dict[str, str]:
    """What each number is, in the order in which they are shown."""
    named = TITLES | {"sink": "weight on the learned sink and the first key together"}
    return {number: named[number] for number in NUMBERS if number in named}


def _statistic(one: Spread, name: str) -> float:
    places = {"5 %": 0.05, "median": 0.5, "95 %": 0.95}
    if name in places:
        return one.quantiles[SHARES.index(places[name])]
    return one.mean if name == "mean" else one.spread


def rounded(value: float) -> float | None:
    """A number in a few digits; None for what is none."""
    return float(f"{value:.{DIGITS}g}") if isfinite(value) else None

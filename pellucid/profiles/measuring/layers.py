"""What one layer adds to the sums of a profile."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.profiles import exact, sums
from pellucid.profiles.layout import FIRST, SAME
from pellucid.profiles.measuring.batch import Document, Side, flags_of
from pellucid.profiles.measuring.classes import TokenClasses
from pellucid.profiles.measuring.equal import equal_of
from pellucid.profiles.measuring.maps import maps_of
from pellucid.profiles.numbers import BINS, NUMBERS, all_edges
from pellucid.record.layer import Layer
from pellucid.record.studies.head_numbers import HeadNumbers, Ratio
from pellucid.record.studies.kinds import Rest, kind, kind_beyond_sink
from pellucid.record.studies.summary import numbers_of

_KIND_OF = {name: place for place, name in enumerate(sums.KINDS)}
_REST = ("previous", "induction", "duplicate", "nearby", "relative_entropy")


@dataclass(frozen=True)
class Measured:
    """A layer of one watched run, and its numbers.

    Attributes:
        layer: what was observed.
        queries: where the texts of its queries stand.
        keys: where those of its keys do.
        ratios: every number of the summary.
        values: the numbers of each sequence, float64 [batch, heads, numbers], NaN where they mean nothing.
        counted: its rows that count, bool [batch, heads, q_len].

    """

    layer: Layer
    queries: Side
    keys: Side
    ratios: dict[str, Ratio]
    values: Tensor
    counted: Tensor


def measured(layer: Layer) -> Measured:
    """The numbers of a layer."""
    numbers = HeadNumbers(layer)
    ratios = numbers_of(numbers)
    values = torch.stack([ratios[name].value for name in NUMBERS], -1)
    keys = Side.of(layer.padding.keys, layer.batch, layer.k_len)
    own = Side.of(layer.padding.queries, layer.batch, layer.q_len, layer.start)
    return Measured(layer, own if layer.role == "cross" else keys, keys, ratios, values.clamp(min=0.0), numbers.counted)


def sums_of(found: Measured, documents: list[Document], classes: TokenClasses) -> dict[str, Tensor]:
    """The sums of a layer over the documents of its batch, by name."""
    layer = found.layer
    rows = found.counted.sum((0, -1))
    whole = torch.full((layer.heads,), layer.batch, dtype=torch.int64, device="cpu")
    return {
        "documents": whole,
        "rows": rows,
        **_of_documents(found.values),
        **_of_rows(found.ratios),
        **_kinds(found.values),
        **_maps(found),
        **_of_keys(found, documents, classes),
    }


def _of_documents(values: Tensor) -> dict[str, Tensor]:
    """The numbers of documents: counts, exact sums, extremes and histograms."""
    known = ~values.isnan()
    plain = torch.where(known, values, 0.0)
    return {
        "count": known.sum(0),
        "sum": exact.total(exact.exact(plain), 0),
        "squares": exact.total(exact.exact(plain * plain), 0),
        "least": torch.where(known, values, torch.inf).amin(0),
        "most": torch.where(known, values, -torch.inf).amax(0),
        "histogram": _histogram(values, known),
    }


def _histogram(values: Tensor, known: Tensor) -> Tensor:
    """How many documents are in each bin, int64 [heads, numbers, bins]."""
    found = torch.zeros(*values.shape[1:], BINS, dtype=torch.int64, device="cpu")
    inner = all_edges()[:, 1:-1].contiguous()
    columns = values.movedim(-1, 0).contiguous()  # [numbers, batch, heads]
    places = torch.searchsorted(inner, columns.flatten(1).nan_to_num(), right=True).reshape(columns.shape)
    return found.scatter_add_(-1, places.permute(2, 0, 1), known.permute(1, 2, 0).to(torch.int64))


def _of_rows(ratios: dict[str, Ratio]) -> dict[str, Tensor]:
    """The numbers of all rows: what they sum to, over what."""
    found = [ratios[name] for name in NUMBERS]
    total, weight = torch.stack([one.total for one in found], -1), torch.stack([one.weight for one in found], -1)
    left_rows = torch.stack([one.left_rows for one in found], -1)
    known = total.isfinite() & weight.isfinite()
    return {
        "total": exact.total(exact.exact(torch.where(known, total, 0.0)), 0),
        "weight": exact.total(exact.exact(torch.where(known, weight, 0.0)), 0),
        "left_rows": torch.where(known, left_rows, 0).sum(0),
    }


def _kinds(values: Tensor) -> dict[str, Tensor]:
    """In how many documents each head is of each kind."""
    shape = values.shape[1], len(sums.KINDS)
    whole, rest = (torch.zeros(shape, dtype=torch.int64, device="cpu") for _ in range(2))
    place = {name: NUMBERS.index(f"{name}_without_sink") for name in _REST}
    for of_document in values.tolist():
        for head, own in enumerate(of_document):
            used = Rest(**{name: own[number] for name, number in place.items()})
            whole[head, _KIND_OF[kind(own[0] + own[1], used).name]] += 1
            rest[head, _KIND_OF[kind_beyond_sink(used).name]] += 1
    return {"kinds": whole, "kinds_without_sink": rest}


def _maps(found: Measured) -> dict[str, Tensor]:
    layer = found.layer
    if not layer.has_weights:
        none = sums.nothing(layer.heads, 0)
        return {name: none[name] for name in _OF_MAPS}
    maps = maps_of(layer, found.counted, found.queries, found.keys)
    return {
        "map_rows": maps.rows.sum(0),
        "distance": exact.total(exact.exact(maps.distance), 0),
        "position": exact.total(exact.exact(maps.position), 0),
        "position_rows": maps.position_rows.sum(0),
    }


_OF_MAPS = ("map_rows", "distance", "position", "position_rows")


def _of_keys(found: Measured, documents: list[Document], classes: TokenClasses) -> dict[str, Tensor]:
    """The weight on token classes, and what equal weights would put there and at each distance."""
    layer = found.layer
    flags = flags_of([document.of_keys(layer.role) for document in documents], classes, found.keys, layer.k_len)
    first = classes.names.index(FIRST)
    flags[torch.arange(layer.batch, device="cpu"), found.keys.first, first] = 1.0
    equal = equal_of(layer, found.counted, flags)
    return {
        "classes": exact.total(exact.exact(_on_classes(found, flags, classes).nan_to_num()), 0),
        "classes_equal": exact.total(exact.exact(equal.classes), 0),
        "distance_equal": exact.total(exact.exact(equal.distance), 0),
    }


def _on_classes(found: Measured, flags: Tensor, classes: TokenClasses) -> Tensor:
    """From what the keys received and, for two of them, the summary's numbers: [batch, heads, classes]."""
    received = found.layer.readings["received"].detach().cpu().double().nan_to_num()
    mass = received @ flags
    mass[..., classes.names.index(FIRST)] = found.ratios["first_mass"].total
    mass[..., classes.names.index(SAME)] = found.ratios["duplicate"].total.nan_to_num()
    return mass

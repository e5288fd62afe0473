"""Attention from one named range of tokens to another: how much of the answer's weight goes to the prompt.

A segment is a range of positions of the sequence that the layer's queries belong to. One whose name begins with
"source." is a range of the sequence that an encoder reads and cross-attention looks at: there it names the keys, and in
the encoder's own self-attention queries and keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pellucid import legible
from pellucid.readouts import Expect

if TYPE_CHECKING:
    from pellucid.record.layer import Layer, Span
    from pellucid.record.record import Record

PREFIX = "segment "
SOURCE = "source."
_END = 2**31 - 1  # stands for a range without end
_CHUNK = 1 << 24  # weights computed at once where they were not read

Spans = Mapping[str, "Span"]


class SegmentMass(NamedTuple):
    """The mean weight that the queries of a segment give to the keys of a segment, for each head."""

    mass: Tensor  # float64 [heads, from, to]; NaN where a segment has no query that counts
    queries: tuple[str, ...]  # the segments of the rows
    keys: tuple[str, ...]  # the segments of the columns


def segment_readouts(segments: Spans, role: str = "self") -> list[Expect]:
    """The readouts that `segment_mass` takes from one pass: `segment <name>`, the weight on a segment's keys.

    Args:
        segments: named ranges, a slice each, or a list of slices for the sequences of the batch.
        role: of the layer, "self", "causal self" or "cross".

    Raises:
        ValueError: a range that does not go forward from 0.

    """
    return [_readout(name, segments[name]) for name in names_of(segments, role).keys]


class Names(NamedTuple):
    """The segments that a layer's queries and keys can be in."""

    queries: tuple[str, ...]
    keys: tuple[str, ...]


def names_of(segments: Spans, role: str) -> Names:
    """The names of the segments of the sequences that a layer of a role attends from and to."""
    source = tuple(name for name in segments if name.startswith(SOURCE))
    own = tuple(name for name in segments if not name.startswith(SOURCE))
    if role == "cross":
        return Names(own, source)
    return Names(source, source) if role == "self" and source else Names(own, own)


def segment_mass(record: Record, layer: str | int | Layer, segments: Spans | None = None) -> SegmentMass:
    """How much of the weight of each segment's queries goes to each segment's keys.

    Taken from the readings of `segment_readouts` where they are there, else from exact weights, if query and key were
    kept. A row may sum to less than 1: the sink, and tokens in no segment, are not shown.

    Args:
        record: the run.
        layer: one of its layers, by name, by number or itself.
        segments: named ranges; those of the record if None.

    Raises:
        ValueError: there are no segments for this layer, or neither readings nor query and key to take it from.

    """
    chosen = record[layer] if isinstance(layer, str | int) else layer
    segments = record.segments if segments is None else segments
    names = names_of(segments, chosen.role)
    if not names.queries or not names.keys:
        side = "keys" if names.queries else "queries"
        raise ValueError(
            f"segments: none is given for the {side} of {legible.name(chosen.name)} ({chosen.role}); "
            'name ranges of tokens in watch(segments={"prompt": slice(0, 10)}), '
            'those that cross-attention looks at as "source.…"'
        )
    columns = [_on_segment(chosen, name, segments[name]) for name in names.keys]
    to_segments = torch.stack(columns, -1)  # [batch, heads, q_len, to]
    counted = _counted(chosen)
    mass = [_mean(to_segments, counted & _inside(chosen, segments[name])) for name in names.queries]
    return SegmentMass(torch.stack(mass, 1), names.queries, names.keys)


def limits(name: str, span: Span, batch: int) -> tuple[list[int], list[int]]:
    """Where a segment begins and ends in each sequence of the batch.

    Raises:
        ValueError: a range that does not go forward from 0, or another number of ranges than of sequences.

    """
    spans = span if isinstance(span, list) else [span] * batch
    if len(spans) != batch:
        raise ValueError(f"segments: {legible.name(name)} has {len(spans)} ranges for {batch} sequences")
    for one in spans:
        start, stop = one.start or 0, _END if one.stop is None else one.stop
        if one.step not in (None, 1) or start < 0 or stop < start:
            raise ValueError(
                f"segments: {legible.name(name)} must be a slice forward from 0, as slice(3, 10), got {one}"
            )
    return [one.start or 0 for one in spans], [_END if one.stop is None else one.stop for one in spans]


def _readout(name: str, span: Span) -> Expect:
    if not isinstance(span, list):
        (start,), (stop,) = limits(name, span, 1)
        return Expect(lambda b, h, q, k: (k >= start) & (k < stop), PREFIX + name)
    starts, stops = (torch.tensor(ends, device="cpu") for ends in limits(name, span, len(span)))
    return Expect(lambda b, h, q, k: (k >= starts[b]) & (k < stops[b]), PREFIX + name)


def _on_segment(layer: Layer, name: str, span: Span) -> Tensor:
    """The weight of each row on a segment's keys, float64 [batch, heads, q_len]."""
    if PREFIX + name in layer.readings:
        return layer.readings[PREFIX + name].detach().cpu().double()
    if not layer.parts:
        raise ValueError(
            f"segments: {legible.name(layer.name)} has neither read {legible.quoted(PREFIX + name)} nor kept query and "
            "key; watch the model with segments={...}, or with keep=True"
        )
    starts, stops = (torch.tensor(ends, device="cpu")[:, None] for ends in limits(name, span, layer.batch))
    keys = torch.arange(layer.k_len, device="cpu")
    inside = ((keys >= starts) & (keys < stops)).double()[:, None, :, None]  # [batch, 1, k_len, 1]
    sums = [(layer.weights(queries=rows).cpu().double() @ inside)[..., 0] for rows in _row_chunks(layer)]
    return torch.cat(sums, -1)


def _row_chunks(layer: Layer) -> Iterator[slice]:
    size = max(1, _CHUNK // max(1, layer.batch * layer.heads * layer.k_len))
    for start in range(0, layer.q_len, size):
        yield slice(start, min(start + size, layer.q_len))


def _counted(layer: Layer) -> Tensor:
    """The rows that are no padding and may look at something, bool [batch, heads, q_len]."""
    padding = layer.padding.queries
    counted = torch.isfinite(layer.readings["lse"].detach()).cpu()
    return counted if padding is None else counted & ~padding.cpu()[:, None]


def _inside(layer: Layer, span: Span) -> Tensor:
    """Which rows are in a segment, bool [batch, 1, q_len]."""
    starts, stops = (torch.tensor(ends, device="cpu")[:, None, None] for ends in limits("segment", span, layer.batch))
    positions = torch.arange(layer.start, layer.start + layer.q_len, device="cpu")
    return (positions >= starts) & (positions < stops)


def _mean(values: Tensor, rows: Tensor) -> Tensor:
    """The mean over the chosen rows, [heads, to]."""
    total = torch.where(rows[..., None], values, 0.0).sum((0, 2))
    count = rows.sum((0, 2)).double()[:, None]
    return total / torch.where(count > 0, count, torch.nan)

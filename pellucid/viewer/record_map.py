"""The maps of a layer's heads at any size: bins of queries by bins of keys, exact tokens where they fit."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.record import pooling
from pellucid.record.layer import Layer
from pellucid.record.record import Record
from pellucid.record.texts import lists_of

POOLS = ("mean", "max")
READINGS = {"mean": "pooled", "max": "pooled_max"}  # what each has been read as
UNLIKE = 4  # lengths of which one is so many times the other have bins of sizes of their own

Progress = Callable[[float], object]


def for_a_map(pool: str) -> str:
    """What a record without maps lacks, in words."""
    return f"watch with keep=True or more=[pellucid.{'Pooled' if pool == 'mean' else 'PooledMax'}(64, 64)]"


class Look(NamedTuple):
    """What of a layer is looked at.

    Attributes:
        head: its place among the layer's heads; all of them if None.
        pool: "mean", over a bin's queries of their weight on its keys, or "max", the largest weight.
        queries: which rows, counted as `layer.weights` counts them.
        keys: which keys.
        sequence: its number in the batch.

    """

    head: int | None = None
    pool: str = "mean"
    queries: slice = slice(None)
    keys: slice = slice(None)
    sequence: int = 0

    def heads(self, layer: Layer) -> list[int]:
        """The places of the heads."""
        return list(range(layer.heads)) if self.head is None else [self.head]


class Axis(NamedTuple):
    """The queries or keys of a map in bins, as the layer counts them.

    Attributes:
        firsts: the first of each bin.
        stop: the end of the last.

    """

    firsts: list[int]
    stop: int

    @property
    def length(self) -> int:
        """How many queries or keys there are."""
        return self.stop - self.firsts[0] if self.firsts else 0

    @property
    def is_exact(self) -> bool:
        """Whether each bin is one query or key."""
        return self.length == len(self.firsts)

    @property
    def size(self) -> float:
        """Queries or keys a bin, the last left out where it is cut short."""
        if len(self.firsts) < 2:
            return float(self.length)
        return (self.firsts[-1] - self.firsts[0]) / (len(self.firsts) - 1)


@dataclass(frozen=True)
class Maps:
    """The weights of one sequence in bins.

    Attributes:
        weights: float32 [heads, bins of queries, bins of keys]; NaN where a bin has no query that counts.
        queries: the bins of queries.
        keys: the bins of keys.
        pool: what was made of a bin's weights, one of POOLS.

    """

    weights: Tensor
    queries: Axis
    keys: Axis
    pool: str

    @property
    def is_exact(self) -> bool:
        """Whether every cell is one query and one key."""
        return self.queries.is_exact and self.keys.is_exact

    @property
    def resolution(self) -> str:
        """What one cell is, in words."""
        if self.is_exact:
            return self.cell
        made = "the mean over its queries of their weight on its keys" if self.pool == "mean" else "the largest weight"
        return f"{self.cell}: {made}"

    @property
    def cell(self) -> str:
        """How large one cell is, in words."""
        if self.is_exact:
            return "a row a query, a column a key"
        return f"a cell is {_about(self.queries)} of queries by {_about(self.keys)} of keys"

    def joined(self) -> Maps:
        """One map of all heads, their mean or the largest of them."""
        joined = self.weights.mean(0) if self.pool == "mean" else self.weights.amax(0)
        return replace(self, weights=joined[None])


def maps(layer: Layer, look: Look, most: int, progress: Progress | None = None) -> Maps | None:
    """The maps of a layer's heads in at most `most` bins either way; None if nothing allows them.

    The reading of a whole map is taken where there is one and not every query and key has a bin of its own, as many of
    its bins joined as need be. Else the bins are computed from query and key. A part of a map that was only read goes
    to the ends of the bins that it begins and ends in.

    Args:
        layer: of a record.
        look: what of it.
        most: bins either way.
        progress: called with the share that is done, where it is computed.

    """
    rows, columns = range(layer.q_len)[look.queries], range(layer.k_len)[look.keys]
    if not rows or not columns:
        return None
    is_exact = max(len(rows), len(columns)) <= most
    is_whole = (len(rows), len(columns)) == (layer.q_len, layer.k_len)
    reading = READINGS[look.pool]
    if reading in layer.readings and not (layer.has_weights and (is_exact or not is_whole)):
        read = layer.readings[reading][look.sequence, look.heads(layer)].detach().cpu().float()
        return _read(layer, read, rows, columns, most, look.pool)
    return _computed(layer, look, rows, columns, most, progress) if layer.has_weights else None


def labels(tokens: Sequence[str] | None, axis: Axis, start: int = 0) -> list[str]:
    """A label a bin: its first token, or its first position where the tokens are not known.

    Args:
        tokens: of the sequence, from its first on.
        axis: the bins.
        start: the position of what the layer counts as 0.

    """
    places = [start + first for first in axis.firsts]
    return [tokens[at] if tokens is not None and at < len(tokens) else str(at) for at in places]


def axes_tokens(record: Record, layer: Layer, sequence: int = 0) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """The tokens of a layer's queries and keys, where they are known."""
    known = {"own": record.tokens, "source": record.source_tokens, None: None}
    queries, keys = (_of_sequence(known[listed], sequence) for listed in lists_of(record, layer))
    return queries, keys


def bin_sizes(q_len: int, k_len: int, most: int) -> tuple[int, int]:
    """Queries and keys a bin, as many of one as of the other unless the lengths are very unlike."""
    q_bin, k_bin = max(1, -(-q_len // most)), max(1, -(-k_len // most))
    if max(q_len, k_len) > UNLIKE * min(q_len, k_len):
        return q_bin, k_bin
    return max(q_bin, k_bin), max(q_bin, k_bin)


def _of_sequence(tokens: list[list[str]] | None, sequence: int) -> list[str] | None:
    return tokens[sequence] if tokens is not None and sequence < len(tokens) else None


def _computed(layer: Layer, look: Look, rows: range, columns: range, most: int, progress: Progress | None) -> Maps:
    """The same of the weights themselves.

    Args:
        layer: see `maps`, as the others.
        look: what of it.
        rows: the window's.
        columns: the window's.
        most: bins either way.
        progress: see `maps`.

    """
    q_bin, k_bin = bin_sizes(len(rows), len(columns), most)
    found = pooling.pooled(
        layer, q_bin=q_bin, k_bin=k_bin, queries=slice(rows.start, rows.stop), keys=slice(columns.start, columns.stop),
        heads=look.heads(layer), sequence=look.sequence, progress=progress,
    )  # fmt: skip
    queries, keys = Axis(list(rows[::q_bin]), rows.stop), Axis(list(columns[::k_bin]), columns.stop)
    return Maps(found.mean if look.pool == "mean" else found.largest, queries, keys, look.pool)


# Bins that were read.


def _read(layer: Layer, read: Tensor, rows: range, columns: range, most: int, pool: str) -> Maps:
    """Bins that were read, [heads, rows, columns], those of a part of them, with neighbours joined as need be."""
    firsts = [_firsts(length, bins) for length, bins in zip((layer.q_len, layer.k_len), read.shape[1:], strict=True)]
    own_rows, own_columns = (_within(first, part) for first, part in zip(firsts, (rows, columns), strict=True))
    queries, keys = firsts[0][own_rows.start : own_rows.stop + 1], firsts[1][own_columns.start : own_columns.stop + 1]
    cut = read[:, own_rows, own_columns]
    by_row, by_column = (max(1, -(-size // most)) for size in cut.shape[1:])
    join = (
        _mean_of_rows(cut, torch.tensor(queries, device="cpu").diff(), by_row)
        if pool == "mean"
        else _largest(cut, -2, by_row)
    )
    joined = _sum_of(join, -1, by_column) if pool == "mean" else _largest(join, -1, by_column)
    return Maps(joined, Axis(queries[:-1:by_row], queries[-1]), Axis(keys[:-1:by_column], keys[-1]), pool)


def _firsts(length: int, bins: int) -> list[int]:
    """Where each bin that a readout has read begins, and the end."""
    return [-(-number * length // bins) for number in range(bins)] + [length]


def _within(firsts: list[int], part: range) -> slice:
    """The bins that have something of a part."""
    return slice(bisect_right(firsts, part.start) - 1, bisect_left(firsts, part.stop))


def _mean_of_rows(pooled: Tensor, sizes: Tensor, group: int) -> Tensor:
    """Means of groups of neighbouring bins of queries, each bin counted by its queries; NaN where none counts."""
    queries = sizes.float()[:, None]
    known = _sum_of(torch.where(pooled.isnan(), 0.0, queries.expand_as(pooled)), -2, group)
    return _sum_of(pooled.nan_to_num() * queries, -2, group) / known.masked_fill(known == 0, torch.nan)


def _sum_of(values: Tensor, dimension: int, group: int) -> Tensor:
    """The sums of groups of neighbours; the last group may be smaller."""
    return torch.stack([piece.sum(dimension) for piece in values.split(group, dimension)], dimension)


def _largest(values: Tensor, dimension: int, group: int) -> Tensor:
    """The largest of groups of neighbours; NaN where there is nothing else."""
    least = torch.where(values.isnan(), -torch.inf, values)
    found = torch.stack([piece.amax(dimension) for piece in least.split(group, dimension)], dimension)
    return found.masked_fill(found == -torch.inf, torch.nan)


def _about(axis: Axis) -> str:
    tokens = axis.size
    return "1" if tokens == 1 else f"{tokens:.0f}" if tokens >= 10 or tokens == int(tokens) else f"about {tokens:.1f}"

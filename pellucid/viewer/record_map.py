"""The map of one head of a record at any size: bins of queries by bins of keys, exact tokens where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.record.layer import Layer
from pellucid.record.record import Record

FOR_A_MAP = "watch with keep=True or more=[pellucid.Pooled(64, 64)]"  # what a record without maps lacks
_CHUNK = 1 << 24  # weights computed at once


@dataclass(frozen=True)
class HeadMap:
    """The mean over the queries of a bin of the weight on the keys of a bin, of one sequence.

    Attributes:
        weights: float32 [bins of queries, bins of keys]; NaN where a bin has no query that counts.
        q_len: queries.
        k_len: keys.

    """

    weights: Tensor
    q_len: int
    k_len: int

    @property
    def is_exact(self) -> bool:
        """Whether every cell is one query and one key."""
        return tuple(self.weights.shape) == (self.q_len, self.k_len)

    @property
    def resolution(self) -> str:
        """What one cell is, in words."""
        if self.is_exact:
            return "a row a query, a column a key"
        rows, columns = self.weights.shape
        queries, keys = _about(self.q_len, rows), _about(self.k_len, columns)
        return (
            f"a cell is {queries} of queries by {keys} of keys: the mean over its queries of their weight on its keys"
        )


def head_map(layer: Layer, head: int | None, most_rows: int, most_columns: int, sequence: int = 0) -> HeadMap | None:
    """The map of a head, or the mean of all heads if None, in at most so many bins; None if nothing allows one.

    Where every query and key has a bin of its own it is computed from query and key, if they were kept; else the
    `pooled` reading's bins are taken, as many joined as need be; and where that was not read, it is computed again.

    Args:
        layer: of a record.
        head: its place among the layer's heads.
        most_rows: bins of queries at most.
        most_columns: bins of keys at most.
        sequence: its number in the batch.

    """
    heads = list(range(layer.heads)) if head is None else [head]
    is_exact = layer.q_len <= most_rows and layer.k_len <= most_columns
    if "pooled" in layer.readings and not (is_exact and layer.has_weights):
        maps = _joined_bins(layer.pooled[sequence, heads].cpu().float(), layer, most_rows, most_columns)
    elif layer.has_weights:
        maps = _computed(layer, heads, min(most_rows, layer.q_len), min(most_columns, layer.k_len), sequence)
    else:
        return None
    return HeadMap(maps.mean(0), layer.q_len, layer.k_len)


def all_maps(layer: Layer, most: int, sequence: int = 0) -> Tensor | None:
    """The maps of all heads of a layer in at most `most` bins either way, [heads, rows, columns], or None."""
    if "pooled" in layer.readings:
        return _joined_bins(layer.pooled[sequence].cpu().float(), layer, most, most)
    if layer.has_weights:
        heads = list(range(layer.heads))
        return _computed(layer, heads, min(most, layer.q_len), min(most, layer.k_len), sequence)
    return None


def labels(tokens: Sequence[str] | None, length: int, bins: int, start: int = 0) -> list[str]:
    """A label a bin: its first token, or its first position where the tokens are not known.

    Args:
        tokens: of the sequence, from its first on.
        length: tokens that the bins divide.
        bins: how many.
        start: position of the first of those tokens.

    """
    firsts = [start - (-bin_ * length // bins) for bin_ in range(bins)]
    return [tokens[at] if tokens is not None and at < len(tokens) else str(at) for at in firsts]


def axes_tokens(record: Record, layer: Layer, sequence: int = 0) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """The tokens of a layer's queries and keys, where they are known."""
    own, source = _of_sequence(record.tokens, sequence), _of_sequence(record.source_tokens, sequence)
    if layer.role == "cross":
        return own, source
    reads_source = layer.role == "self" and source is not None and len(source) == layer.k_len
    return (source, source) if reads_source else (own, own)


def _of_sequence(tokens: list[list[str]] | None, sequence: int) -> list[str] | None:
    return tokens[sequence] if tokens is not None and sequence < len(tokens) else None


def _computed(layer: Layer, heads: list[int], rows: int, columns: int, sequence: int) -> Tensor:
    """The pooled weights of some heads, from exact weights computed a stretch of queries at a time."""
    row_of, column_of = (
        torch.arange(n, device="cpu") * bins // n for n, bins in ((layer.q_len, rows), (layer.k_len, columns))
    )
    counted = _counted(layer, sequence)
    sums = torch.zeros(len(heads), rows, columns, device="cpu")
    size = max(1, _CHUNK // (layer.batch * len(heads) * layer.k_len))
    for start in range(0, layer.q_len, size):
        queries = slice(start, min(start + size, layer.q_len))
        weights = layer.weights(queries=queries, heads=heads)[sequence].cpu().float()
        weights = torch.where(counted[queries, None], weights, 0.0)
        by_key = weights.new_zeros(*weights.shape[:-1], columns).index_add_(-1, column_of, weights)
        sums.index_add_(1, row_of[queries], by_key)
    counts = torch.zeros(rows, device="cpu").index_add_(0, row_of, counted.float())
    return sums / torch.where(counts > 0, counts, torch.nan)[:, None]


def _counted(layer: Layer, sequence: int) -> Tensor:
    """Which queries are no padding, bool [q_len]."""
    padding = layer.padding.queries
    return torch.ones(layer.q_len, dtype=torch.bool, device="cpu") if padding is None else ~padding[sequence].cpu()


def _joined_bins(pooled: Tensor, layer: Layer, most_rows: int, most_columns: int) -> Tensor:
    """Pooled maps [heads, rows, columns] with neighbouring bins joined, as many as fit."""
    rows, columns = pooled.shape[-2:]
    by_row, by_column = -(-rows // most_rows), -(-columns // most_columns)
    queries = torch.bincount(torch.arange(layer.q_len, device="cpu") * rows // layer.q_len, minlength=rows).float()[
        :, None
    ]
    known = torch.where(pooled.isnan(), 0.0, queries.expand_as(pooled))
    sums = _sum_of(pooled.nan_to_num() * queries, -2, by_row)
    joined = sums / _sum_of(known, -2, by_row).masked_fill_(_sum_of(known, -2, by_row) == 0, torch.nan)
    return _sum_of(joined, -1, by_column)


def _sum_of(values: Tensor, dimension: int, group: int) -> Tensor:
    """The sums of groups of neighbours; the last group may be smaller."""
    places = torch.arange(values.shape[dimension], device="cpu") // group
    shape = list(values.shape)
    shape[dimension] = int(places[-1]) + 1 if len(places) else 0
    return values.new_zeros(shape).index_add_(dimension, places, values)


def _about(length: int, bins: int) -> str:
    tokens = length / bins
    return "1" if tokens == 1 else f"{tokens:.0f}" if tokens >= 10 or tokens == int(tokens) else f"about {tokens:.1f}"

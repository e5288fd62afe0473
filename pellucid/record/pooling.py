"""Any window of a layer's weights in bins of fixed sizes, means and maxima: what a map of any size is made of.

A window of few weights is computed and joined. A large one comes out of an engine's pass over whole rows, which never
holds the weights. The rows are whole because a softmax is over all keys that a query may see; so what counts is how
much of its rows a window is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pellucid import legible, readouts
from pellucid.readouts.pooled import Begun
from pellucid.record.layer import Layer
from pellucid.record.part import Part
from pellucid.record.studies.sums import run, without_rows
from pellucid.tensors.chosen import positions

AT_ONCE = 1 << 22  # weights that are held
PASSED_AT_ONCE = 1 << 29  # weights of a pass, after which it tells how far it is
LEAST_PASSED = 1 << 20  # weights of a window; of fewer, compiling and planning a pass take longer
LEAST_BIN = 8  # weights of a bin; results of smaller ones are as large as the weights
MOST_PASSED_BINS = 8192  # of keys, of which a pass holds all for each of the rows that it is at
ROWS_A_WINDOW = 4  # weights that a pass goes through in the time in which one is computed and joined

Progress = Callable[[float], object]
Join = Callable[[Tensor, int], Tensor]
JOINS: tuple[Join, Join] = (Tensor.sum, Tensor.amax)


class Pooled(NamedTuple):
    """A window of weights in bins of queries by keys, the last of each as short as the window makes it.

    Attributes:
        mean: the mean over a bin's queries of the sum over its keys, float32 [heads, rows, columns].
        largest: the largest weight of a bin, of the same shape.
        counted: the queries of each row of bins that count, int64 [rows]: where there are none, mean and largest are
            NaN.

    """

    mean: Tensor
    largest: Tensor
    counted: Tensor


def pooled(
    layer: Layer,
    *,
    q_bin: int,
    k_bin: int,
    queries: slice = slice(None),
    keys: slice = slice(None),
    heads: Sequence[int] | None = None,
    sequence: int = 0,
    progress: Progress | None = None,
) -> Pooled:
    """A window of a layer's weights in bins, exactly: what `layer.weights(...)` gives, joined.

    Args:
        layer: one that kept query and key.
        q_bin: queries a bin, the first bin from the window's first. Those of padding do not count.
        k_bin: keys a bin.
        queries: of the window, neighbours.
        keys: of the window, neighbours.
        heads: places among the heads observed, all if None.
        sequence: its number in the batch.
        progress: called with the share that is done, up to 1, again and again; what it raises ends the work.

    Returns:
        The bins, on the CPU.

    Raises:
        ValueError: query and key were not kept, a bin of less than 1, or a slice with a step.
        IndexError: no such head or sequence.

    """
    if not layer.has_weights:
        raise ValueError(f"layer: {legible.name(layer.name)} kept no query and key; watch the model with keep=True")
    rows = _axis(("queries", queries), ("q_bin", q_bin), layer.start, layer.q_len)
    columns = _axis(("keys", keys), ("k_bin", k_bin), 0, layer.k_len)
    chosen = positions("heads", None if heads is None else list(heads), layer.heads, "cpu")
    own = layer.of_sequence(sequence)
    bins = _Bins.of(len(chosen), rows, columns)
    for part in own.parts or (None,):
        start, stop = rows.within(*((part.start, part.q_len) if part else (own.start, own.q_len)))
        if start >= stop or not len(chosen):
            continue
        its = _Stretch(part, own, chosen, rows, columns)
        for first in range(start, stop, its.at_once):
            bins.add(its.between(first, min(first + its.at_once, stop)))
            if progress is not None:
                progress((min(first + its.at_once, stop) - rows.first) / (rows.stop - rows.first))
    return bins.finished(_counted(own, rows))


class _Axis(NamedTuple):
    """The window's queries or keys, by position in the sequence, in bins."""

    first: int
    stop: int
    size: int

    @property
    def bins(self) -> int:
        return -(-(self.stop - self.first) // self.size)

    def within(self, start: int, length: int) -> tuple[int, int]:
        """The first of some neighbours that the window has, and where they end; not above the first if it has none."""
        return max(self.first, start), min(self.stop, start + length)

    def begins(self, start: int, stop: int) -> list[int]:
        """Where the bins of some of the window begin, the first with `start`."""
        return [start, *range(self.first + (self.place(start) + 1) * self.size, stop, self.size)]

    def place(self, position: int) -> int:
        """The bin of a position."""
        return (position - self.first) // self.size

    def places(self, start: int, stop: int) -> slice:
        """The bins of some of the window."""
        return slice(self.place(start), self.place(stop - 1) + 1)


def _axis(chosen: tuple[str, slice], size: tuple[str, int], first: int, length: int) -> _Axis:
    if size[1] < 1:
        raise ValueError(f"{size[0]}: at least 1, got {size[1]}")
    start, stop, step = chosen[1].indices(length)
    if step != 1:
        raise ValueError(f"{chosen[0]}: a slice of neighbours, of step 1, got {chosen[1]}")
    return _Axis(first + start, first + max(start, stop), size[1])


def _counted(layer: Layer, rows: _Axis) -> Tensor:
    """How many queries of each bin are no padding, int64 [bins]."""
    own = slice(rows.first - layer.start, rows.stop - layer.start)
    padded = layer.padding.queries
    counts = torch.ones(layer.q_len, dtype=torch.int64, device="cpu") if padded is None else (~padded[0]).cpu().long()
    places = torch.arange(rows.stop - rows.first, device="cpu") // rows.size
    return torch.zeros(rows.bins, dtype=torch.int64, device="cpu").index_add_(0, places, counts[own])


class _Found(NamedTuple):
    """What some of the window's rows add to its bins."""

    rows: slice
    columns: slice
    sums: Tensor  # [heads, rows, columns]
    largest: Tensor


class _Bins(NamedTuple):
    """The bins while they fill."""

    sums: Tensor
    largest: Tensor

    @classmethod
    def of(cls, heads: int, rows: _Axis, columns: _Axis) -> _Bins:
        shape = (heads, rows.bins, columns.bins)
        return cls(torch.zeros(shape, device="cpu"), torch.zeros(shape, device="cpu"))

    def add(self, found: _Found | None) -> None:
        if found is not None:
            place = (slice(None), found.rows, found.columns)
            self.sums[place] += found.sums.to(self.sums)
            self.largest[place] = self.largest[place].maximum(found.largest.to(self.sums))

    def finished(self, counted: Tensor) -> Pooled:
        divisor = counted.float().masked_fill(counted == 0, torch.nan)[:, None]
        empty = (counted == 0)[:, None]
        return Pooled(self.sums / divisor, self.largest.masked_fill(empty, torch.nan), counted)


@dataclass(frozen=True)
class _Stretch:
    """The queries of a part that are in the window, a few at a time; of all where a layer has no parts."""

    whole: Part | None
    layer: Layer  # of one sequence
    heads: Tensor
    rows: _Axis
    columns: _Axis

    @cached_property
    def part(self) -> Part | None:
        """The part of the chosen heads."""
        return None if self.whole is None else self.whole.of_heads(self.heads.to(self.whole.query.device))

    @cached_property
    def keys(self) -> tuple[int, int]:
        """The first of the keys that are in the window, and where they end."""
        own = (0, self.layer.k_len) if self.whole is None else (self.whole.k_start, self.whole.k_len)
        return self.columns.within(*own)

    @cached_property
    def is_passed(self) -> bool:
        """Whether a pass over whole rows is the faster way."""
        if self.whole is None:
            return False
        start, stop = self.rows.within(self.whole.start, self.whole.q_len)
        first, last = self.keys
        weights = len(self.heads) * (stop - start) * (last - first)
        large_bins = self.rows.size * self.columns.size >= LEAST_BIN and self.columns.bins <= MOST_PASSED_BINS
        return large_bins and weights >= LEAST_PASSED and self.whole.k_len <= ROWS_A_WINDOW * (last - first)

    @cached_property
    def at_once(self) -> int:
        """Queries at a time, whole bins of them if those are not too many."""
        first, last = self.keys
        most, keys = AT_ONCE, max(1, last - first)
        if self.is_passed and self.whole is not None:
            most, keys = PASSED_AT_ONCE, self.whole.k_len
        most = max(1, most // (len(self.heads) * keys))
        return most - most % self.rows.size if most > self.rows.size else most

    def between(self, start: int, stop: int) -> _Found | None:
        """What the queries from one position up to another add."""
        first, last = self.keys
        if first >= last:
            return None
        of_them = self._passed if self.is_passed else self._joined
        sums, largest = of_them(start, stop)
        return _Found(self.rows.places(start, stop), self.columns.places(first, last), sums[0], largest[0])

    def _padded(self, start: int, stop: int) -> Tensor | None:
        """Which of the queries are padding, bool [1, queries]."""
        padded = self.layer.padding.queries
        return None if padded is None else padded[:, start - self.layer.start : stop - self.layer.start]

    def _passed(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Sums and maxima of the bins out of one pass over whole rows."""
        assert self.part is not None
        part, (first, last) = self.part.between(start, stop), self.keys
        rows = [row - start for row in self.rows.begins(start, stop)]
        before, after = first > part.k_start, last < part.k_start + part.k_len  # the rows' keys beside the window
        own = [0] * before + [key - part.k_start for key in self.columns.begins(first, last)]
        bins = Begun(tuple(rows)), Begun((*own, *[last - part.k_start] * after))
        wanted = (readouts.Pooled.in_bins(*bins), readouts.PooledMax.in_bins(*bins))
        problem, padded = replace(part.indexed(), readouts=wanted), self._padded(start, stop)
        with torch.no_grad(), part.computing():
            found = run(problem if padded is None else without_rows(problem, padded.to(part.query.device))).readings
        sizes = torch.tensor([*rows, part.q_len], device=part.query.device).diff()[:, None]
        inside = slice(int(before), len(own))
        return found["pooled"][..., inside] * sizes, found["pooled_max"][..., inside]

    def _joined(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The same from the weights themselves."""
        (first, last), base = self.keys, self.layer.start
        weights = self.layer.weights(slice(start - base, stop - base), slice(first, last), self.heads)
        padded = self._padded(start, stop)
        if padded is not None:
            weights = torch.where(padded[:, None, :, None].to(weights.device), 0.0, weights)
        rows, columns = self.rows.begins(start, stop), self.columns.begins(first, last)
        both = (_over(weights, -2, rows, stop, join) for join in JOINS)  # first, as neighbours add up as vectors
        sums, largest = (_over(own, -1, columns, last, join) for own, join in zip(both, JOINS, strict=True))
        return sums, largest


def _over(values: Tensor, dim: int, begins: list[int], end: int, join: Join) -> Tensor:
    """The values of each bin along a dimension as one: first and last may be smaller, those between are alike."""
    sizes = [after - before for before, after in zip(begins, [*begins[1:], end], strict=True)]
    if max(sizes) == 1:
        return values
    first, last = sizes[0], sizes[-1] if len(sizes) > 1 else 0
    pieces = [join(values.narrow(dim, 0, first), dim).unsqueeze(dim)]
    if len(sizes) > 2:
        between = values.narrow(dim, first, values.shape[dim] - first - last)
        pieces.append(join(between.unflatten(dim, (len(sizes) - 2, sizes[1])), dim))
    if last:
        pieces.append(join(values.narrow(dim, values.shape[dim] - last, last), dim).unsqueeze(dim))
    return torch.cat(pieces, dim)

"""What a map is of, and any window of it in bins: sums and largest weights, computed now."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pellucid.language import Interval, bounds
from pellucid.record import pooling
from pellucid.record.layer import Layer
from pellucid.record.part import Part
from pellucid.viewer.browser.values import exact

AT_ONCE = 1 << 22  # weights of all heads that are held
FEWEST = 256  # keys of which it is asked whether any may be looked at


class Bins(NamedTuple):
    """A window in bins: of each the sum of its weights and the largest, float32 [rows, columns], padding left out."""

    sums: Tensor
    largest: Tensor


@dataclass(frozen=True)
class Shown:
    """A layer's weights in one sequence, of several heads their mean or the largest of each pair.

    Attributes:
        whole: the layer.
        sequence: its number in the batch.
        heads: places among the layer's heads.
        over: "mean" or "max": how several heads become one.

    """

    whole: Layer
    sequence: int
    heads: tuple[int, ...]
    over: str

    @cached_property
    def layer(self) -> Layer:
        """The layer of the sequence alone."""
        return self.whole.of_sequence(self.sequence) if self.whole.parts else self.whole

    @property
    def size(self) -> tuple[int, int]:
        """Queries and keys."""
        return self.whole.q_len, self.whole.k_len

    def passes(self, pool: str) -> bool:
        """Whether heads can be pooled one by one: a mean of means is the mean, a largest of largest the largest."""
        return bool(self.whole.parts) and (len(self.heads) == 1 or self.over == pool)

    def counted(self, first: int, size: int, bins: int) -> Tensor:
        """How many queries of each bin are no padding, float32 [bins]."""
        padding = self.whole.padding.queries
        queries = torch.arange(first, min(first + size * bins, self.whole.q_len), device="cpu")
        own = torch.ones(len(queries), device="cpu")
        if padding is not None:
            own = (~padding[self.sequence].cpu()[queries]).float()
        return torch.zeros(bins, device="cpu").index_add_(0, (queries - first) // size, own)

    def exact(self, queries: slice, keys: slice) -> Tensor:
        """The weights of a window, float32 [queries, keys]; NaN: padding."""
        return exact(self.layer, 0 if self.whole.parts else self.sequence, list(self.heads), queries, keys, self.over)

    def binned(self, queries: slice, keys: slice, q_bin: int, k_bin: int, pool: str | None = None) -> Bins:
        """A window's weights in bins that begin with it; the last ones are as short as the window makes them.

        Args:
            queries: rows of the layer.
            keys: neighbours.
            q_bin: queries a bin.
            k_bin: keys a bin.
            pool: "mean" or "max" where only the sums or only the largest are wanted; of several heads one of both is
                to be named, the other is then without meaning.

        """
        rows, columns = -(-(queries.stop - queries.start) // q_bin), -(-(keys.stop - keys.start) // k_bin)
        found = Bins(*(torch.zeros(rows, columns, device="cpu") for _ in Bins._fields))
        read = self.read(queries, keys, k_bin)
        if read is None:
            return found
        first = (read.start - keys.start) // k_bin
        own = (self._passed if self.passes(pool or self.over) else self._joined)(queries, read, q_bin, k_bin)
        for whole, part in zip(found, own, strict=True):
            whole[:, first : first + part.shape[1]] = part
        return found

    def _passed(self, queries: slice, keys: slice, q_bin: int, k_bin: int) -> Bins:
        """Head by head, without the weights where they are many."""
        found = pooling.pooled(
            self.layer, q_bin=q_bin, k_bin=k_bin, queries=queries, keys=keys, heads=list(self.heads), sequence=0
        )
        sums, largest = sums_of(found)
        return Bins(sums.mean(0), largest.amax(0))

    def _joined(self, queries: slice, keys: slice, q_bin: int, k_bin: int) -> Bins:
        """From the weights of all heads, a few queries at a time: some whole bins, or a piece of one."""
        rows, columns = -(-(queries.stop - queries.start) // q_bin), -(-(keys.stop - keys.start) // k_bin)
        found = Bins(*(torch.zeros(rows, columns, device="cpu") for _ in Bins._fields))
        most = max(1, AT_ONCE // (len(self.heads) * (keys.stop - keys.start)))
        start = queries.start
        while start < queries.stop:
            first, within = divmod(start - queries.start, q_bin)
            stop = min(start + (most - most % q_bin or min(most, q_bin - within)), queries.stop)
            size = min(q_bin, stop - start)
            weights = self.exact(slice(start, stop), keys).cpu().nan_to_num(0.0)
            missing = (0, columns * k_bin - weights.shape[1], 0, -weights.shape[0] % size)
            binned = pad(weights, missing).unflatten(1, (columns, k_bin)).unflatten(0, (-1, size))
            own = slice(first, first + len(binned))
            found.sums[own] += binned.sum((1, 3))
            torch.maximum(found.largest[own], binned.amax((1, 3)), out=found.largest[own])
            start = stop
        return found

    def read(self, queries: slice, keys: slice, step: int = 1) -> slice | None:
        """The keys of a window, in whole steps from its first, that its queries may look at; None if they are none.

        Those between are there too. What no query may look at weighs 0, and is not computed.
        """
        if not self.whole.parts:
            return keys
        size = max(step, FEWEST - FEWEST % step)
        starts = [at for at in range(keys.start, keys.stop, size) if self._any(queries, at, min(at + size, keys.stop))]
        return slice(starts[0], min(starts[-1] + size, keys.stop)) if starts else None

    def _any(self, queries: slice, first: int, stop: int) -> bool:
        start, end = queries.start + self.layer.start, queries.stop + self.layer.start
        return any(
            _allows(part, max(start, part.start), min(end, part.start + part.q_len), first, stop)
            for part in self.layer.parts
            if max(start, part.start) < min(end, part.start + part.q_len)
        )


def by_head(layer: Layer, sequence: int, queries: slice, q_bin: int, k_bin: int) -> Bins:
    """All keys of some queries in bins, of each head of a layer apart, [heads, rows, columns].

    Args:
        layer: the layer.
        sequence: its number in the batch.
        queries: rows of the layer.
        q_bin: queries a bin.
        k_bin: keys a bin.

    """
    if layer.parts:
        return sums_of(pooling.pooled(layer, q_bin=q_bin, k_bin=k_bin, queries=queries, sequence=sequence))
    keys = slice(0, layer.k_len)
    each = [Shown(layer, sequence, (head,), "mean").binned(queries, keys, q_bin, k_bin) for head in range(layer.heads)]
    return Bins(*(torch.stack(values) for values in zip(*each, strict=True)))


def sums_of(found: pooling.Pooled) -> Bins:
    """Maps of heads as sums over the pairs of a bin, and the largest; 0 where no query counts."""
    return Bins(found.mean.nan_to_num(0.0) * found.counted[:, None], found.largest.nan_to_num(0.0))


def _allows(part: Part, start: int, end: int, first: int, stop: int) -> bool:
    """Whether a part's queries may look at any of some keys, by positions; True also where that is not known."""
    own = max(first, part.k_start), min(stop, part.k_start + part.k_len)
    if own[0] >= own[1]:
        return False
    places = {
        "b": Interval(0, 0),
        "h": Interval(0, part.query.shape[1] - 1),
        "q": Interval(start, end - 1),
        "k": Interval(own[0], own[1] - 1),
    }
    with part.computing():
        allowed = bounds(part.mask, places)
    return allowed is None or bool(allowed.high)

"""Pooled: the attention map at any resolution, for lengths whose whole map nobody could store or look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.language import Expression
from pellucid.readouts.base import ColumnReadout, Dense, Numbers
from pellucid.tensors import compiling

if TYPE_CHECKING:
    from pellucid.problem import Problem


@dataclass(frozen=True)
class Even:
    """As many bins as can be of so many, as equal as can be: position i is in bin i * bins // length."""

    bins: int

    def count(self, length: int) -> int:
        """How many bins there are."""
        return min(length, self.bins)

    def of(self, positions: Tensor, length: int) -> Tensor:
        """The bin of each position."""
        return positions * self.count(length) // max(length, 1)

    def begins(self, length: int) -> tuple[int, ...]:
        """The position that each bin begins with."""
        count = self.count(length)
        return tuple(-(-place * length // count) for place in range(count))


@dataclass(frozen=True)
class Begun:
    """Bins of any sizes, by the position that each begins with: the first 0, each above the one before."""

    firsts: tuple[int, ...]

    def count(self, length: int) -> int:
        """How many bins there are."""
        return len(self.firsts)

    def of(self, positions: Tensor, length: int) -> Tensor:
        """The bin of each position."""
        return torch.bucketize(positions, torch.tensor(self.firsts, device=positions.device), right=True) - 1

    def begins(self, length: int) -> tuple[int, ...]:
        """The position that each bin begins with."""
        return self.firsts


Bins = Even | Begun


def numbers_of(bins: tuple[Bins, Bins]) -> tuple[int, ...]:
    """Bins of queries and keys as numbers: two where both are even."""
    queries, keys = bins
    if isinstance(queries, Even) and isinstance(keys, Even):
        return queries.bins, keys.bins
    assert isinstance(queries, Begun)
    assert isinstance(keys, Begun)
    return len(queries.firsts), *queries.firsts, *keys.firsts


def bins_of(numbers: Numbers) -> tuple[Begun, Begun] | None:
    """The bins that `numbers_of` made numbers of, where they are not even."""
    if len(numbers) == 2:
        return None
    count, *firsts = (int(number or 0) for number in numbers)
    return Begun(tuple(firsts[:count])), Begun(tuple(firsts[count:]))


def bins_within(bins: tuple[Bins, Bins], queries: range, whole: Problem) -> tuple[Begun, Begun] | None:
    """The bins as a call of some of the queries has them: those that the queries fall into; None without any."""
    if not len(queries) or not whole.k_len:
        return None
    rows = tuple(part.start - queries.start for _, part in _parts_of(bins[0], queries, whole.q_len))
    return Begun(rows), Begun(bins[1].begins(whole.k_len))


def sums_of_bins(bins: Bins, queries: range, whole: Problem, means: Tensor) -> tuple[Tensor, Tensor]:
    """The bins that some queries fall into, and what was read of them as sums.

    Args:
        bins: of the queries of the whole call.
        queries: the positions of those that were read.
        whole: the call of all queries.
        means: what was read of each bin that they fall into, [..., bins, keys].

    Returns:
        The bins' numbers, int64, and the means times how many queries each is of.

    """
    found = [(place, len(part)) for place, part in _parts_of(bins, queries, whole.q_len)]
    places, counts = torch.tensor(found, dtype=torch.int64, device=means.device).view(-1, 2).unbind(-1)
    return places, means * counts[:, None]


def _parts_of(bins: Bins, queries: range, length: int) -> list[tuple[int, range]]:
    """The bins that hold some of the queries, by their place, each with those."""
    whole = (range(first, stop) for first, stop in pairwise((*bins.begins(length), length)))
    parts = (range(max(bin.start, queries.start), min(bin.stop, queries.stop)) for bin in whole)
    return [(place, part) for place, part in enumerate(parts) if len(part)]


class Pooled(ColumnReadout):
    """`observation.pooled`, [..., heads, R, C]: the map in R bins of queries by C bins of keys.

    Each entry is the mean over the bin's queries of the weight that falls into the bin's keys, so each row of the
    pooled map still sums to 1 (less a sink's share, and less rows with no key). Query i is in bin i * R // q_len;
    fewer queries than bins make one bin a query. Differentiable; backward goes through the scores once more.

    Args:
        queries: number of query bins, R.
        keys: number of key bins, C.

    Raises:
        ValueError: a number of bins that is not whole or less than 1.

    """

    name = "pooled"
    differentiable = True

    def __init__(self, queries: int, keys: int) -> None:
        for name, value in (("queries", queries), ("keys", keys)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: Pooled takes a whole number of bins from 1, got {value!r}")
        self.queries, self.keys = compiling.number(queries), compiling.number(keys)
        self.bins: tuple[Bins, Bins] = Even(self.queries), Even(self.keys)

    @staticmethod
    def in_bins(queries: Begun, keys: Begun) -> Pooled:
        """The same in bins of any sizes; for calls of that many queries and keys."""
        made = Pooled(1, 1)
        made.bins = queries, keys
        return made

    @property
    def size(self) -> tuple[int, int]:
        """The bins."""
        return self.queries, self.keys

    @property
    def numbers(self) -> tuple[int, ...]:
        """The bins; of those of any sizes how many are of queries, then where those of queries and of keys begin."""
        return numbers_of(self.bins)

    @classmethod
    def again(cls, numbers: Numbers, functions: Iterator[Expression], name: str) -> Pooled:
        """An equal readout."""
        bins = bins_of(numbers)
        return cls(*numbers) if bins is None else cls.in_bins(*bins)  # type: ignore[arg-type]

    def dense(self, dense: Dense) -> Tensor:
        """The dense definition."""
        sums = _joined(dense.weights, -1, self.bins[1], Tensor.sum)
        return _joined(sums, -2, self.bins[0], Tensor.mean)

    def start(self, problem: Problem) -> Tensor:
        """Zeros."""
        counts = (self.bins[0].count(problem.q_len), self.bins[1].count(problem.k_len))
        return problem.query.new_zeros((*problem.batch, problem.heads, *counts), dtype=problem.dtype)

    def update(self, state: Tensor, weights: Tensor, place: dict[str, Tensor], problem: Problem) -> None:
        """Add the tile's sums over its bins."""
        key_bins = self.bins[1].of(place["k"], problem.k_len)
        query_bins = self.bins[0].of(place["q"].flatten(), problem.q_len)
        by_key = weights.new_zeros(*weights.shape[:-1], state.shape[-1]).index_add_(-1, key_bins, weights)
        state.index_add_(-2, query_bins, by_key)

    def weight_gradient(self, gradient: Tensor, place: dict[str, Tensor], problem: Problem) -> Tensor:
        """That of its bins, divided by the bin's queries."""
        key_bins = self.bins[1].of(place["k"], problem.k_len)
        query_bins = self.bins[0].of(place["q"].flatten(), problem.q_len)
        means = gradient / self._counts(problem, gradient)[:, None]
        return means.index_select(-2, query_bins).index_select(-1, key_bins)

    def finish(self, state: Tensor, problem: Problem) -> Tensor:
        """The mean over each bin's queries."""
        return state.div_(self._counts(problem, state)[:, None])

    def of_queries(self, queries: range, whole: Problem) -> Pooled | None:
        """Means over the queries of each bin that are among them."""
        bins = bins_within(self.bins, queries, whole)
        return None if bins is None else Pooled.in_bins(*bins)

    def state_of(self, result: Tensor, queries: range, whole: Problem) -> Tensor:
        """Their sums, at the bins they are of."""
        bins, sums = sums_of_bins(self.bins[0], queries, whole, result)
        return self.start(whole).index_add(-2, bins, sums)

    def _counts(self, problem: Problem, state: Tensor) -> Tensor:
        """The queries of each bin."""
        return torch.bincount(_each(problem.q_len, self.bins[0], state.device), minlength=state.shape[-2])

    def without_padding(self, result: Tensor, padded: Tensor) -> Tensor:
        """Means over each bin's tokens in place of all its queries; NaN where it has none."""
        bins, q_len = result.shape[2], padded.shape[1]
        own = _each(q_len, self.bins[0], padded.device)
        tokens = torch.zeros(len(padded), bins, device=padded.device).index_add_(1, own, (~padded).float())
        counts = torch.bincount(own, minlength=bins)
        none = tokens == 0
        share = (counts / tokens.masked_fill(none, 1.0)).to(result)[:, None, :, None]
        return (result * share).masked_fill(none[:, None, :, None], torch.nan)  # whose gradient is 0, and not NaN


def _joined(weights: Tensor, dim: int, bins: Bins, join: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The weights of each bin as one."""
    length = weights.shape[dim]
    sizes = torch.bincount(_each(length, bins, torch.device("cpu")), minlength=bins.count(length)).tolist()
    parts = [join(part, dim) for part in weights.split(sizes, dim)] if sizes else []
    return torch.stack(parts, dim) if parts else weights.narrow(dim, 0, 0)


def _each(length: int, bins: Bins, device: torch.device) -> Tensor:
    return bins.of(torch.arange(length, device=device), length)

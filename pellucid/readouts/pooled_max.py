"""PooledMax: the largest weight of each part of the map, so that one strong weight is not lost in a mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.language import Expression
from pellucid.readouts.base import ColumnReadout, Dense, Numbers
from pellucid.readouts.pooled import Begun, Bins, Pooled, bins_of, bins_within, sums_of_bins

if TYPE_CHECKING:
    from pellucid.problem import Problem


class PooledMax(ColumnReadout):
    """`observation.pooled_max`, [..., heads, R, C]: the largest weight in each bin of queries by bin of keys.

    The bins are those of Pooled. Where Pooled dilutes a weight of 1 by the bin's queries, this keeps it. Not
    differentiable.

    Args:
        queries: number of query bins, R.
        keys: number of key bins, C.

    Raises:
        ValueError: a number of bins that is not whole or less than 1.

    """

    name = "pooled_max"
    joined_by = "max"

    def __init__(self, queries: int, keys: int) -> None:
        self._mean = Pooled(queries, keys)  # which checks them
        self.queries, self.keys = self._mean.size

    @staticmethod
    def in_bins(queries: Begun, keys: Begun) -> PooledMax:
        """The same in bins of any sizes, as `Pooled.in_bins`."""
        made = PooledMax(1, 1)
        made._mean = Pooled.in_bins(queries, keys)
        return made

    @property
    def bins(self) -> tuple[Bins, Bins]:
        """Those of queries and of keys."""
        return self._mean.bins

    @property
    def size(self) -> tuple[int, int]:
        """The bins."""
        return self.queries, self.keys

    @property
    def numbers(self) -> tuple[int, ...]:
        """The bins, as `Pooled.numbers`."""
        return self._mean.numbers

    @classmethod
    def again(cls, numbers: Numbers, functions: Iterator[Expression], name: str) -> PooledMax:
        """An equal readout."""
        bins = bins_of(numbers)
        return cls(*numbers) if bins is None else cls.in_bins(*bins)  # type: ignore[arg-type]

    def dense(self, dense: Dense) -> Tensor:
        """The dense definition."""
        q_len, k_len = dense.weights.shape[-2:]
        rows, columns = (torch.arange(length, device=dense.weights.device) for length in (q_len, k_len))
        return self._largest(dense.weights, rows, columns, q_len, k_len)

    def start(self, problem: Problem) -> Tensor:
        """Zeros: no weight is less."""
        return self._mean.start(problem)

    def update(self, state: Tensor, weights: Tensor, place: dict[str, Tensor], problem: Problem) -> None:
        """Take the tile's largest weights where they are larger."""
        found = self._largest(weights, place["q"].flatten(), place["k"], problem.q_len, problem.k_len)
        state.copy_(state.maximum(found))

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """The larger of both sides."""
        return left.maximum(right)

    def of_queries(self, queries: range, whole: Problem) -> PooledMax | None:
        """The largest of those that are among them."""
        bins = bins_within(self.bins, queries, whole)
        return None if bins is None else PooledMax.in_bins(*bins)

    def state_of(self, result: Tensor, queries: range, whole: Problem) -> Tensor:
        """At the bins they are of."""
        bins, _ = sums_of_bins(self.bins[0], queries, whole, result)
        return self.start(whole).index_copy(-2, bins, result)

    def _largest(self, weights: Tensor, rows: Tensor, columns: Tensor, q_len: int, k_len: int) -> Tensor:
        """The largest of these rows and columns of weights in each bin, [..., R, C]; 0 in a bin without any."""
        query_bins, key_bins = self.bins
        by_key = weights.new_zeros(*weights.shape[:-1], key_bins.count(k_len))
        by_key.scatter_reduce_(-1, key_bins.of(columns, k_len).expand_as(weights), weights, "amax")
        largest = weights.new_zeros(*weights.shape[:-2], query_bins.count(q_len), by_key.shape[-1])
        own = query_bins.of(rows, q_len)[:, None].expand_as(by_key)
        return largest.scatter_reduce_(-2, own, by_key, "amax")

"""Received: how much attention each key got, the column sums that key-value eviction and token pruning need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pellucid.language import Expression
from pellucid.readouts.base import ColumnReadout, Dense, Numbers
from pellucid.tensors import compiling

if TYPE_CHECKING:
    from pellucid.problem import Problem


class Received(ColumnReadout):
    """`observation.received`, [..., heads, keys]: the sum over the queries of each key's weight.

    Differentiable; backward goes through the scores once more.

    Args:
        queries: a slice of the queries to sum over, all if None; `slice(-32, None)` is SnapKV's observation window.

    Raises:
        TypeError: `queries` is no slice, or one of other things than whole numbers.
        ValueError: a slice with a step less than 1.

    """

    name = "received"
    of_keys = True
    differentiable = True

    def __init__(self, queries: slice | None = None) -> None:
        if queries is not None and not isinstance(queries, slice):
            raise TypeError(f"queries: Received takes a slice of the queries or None, got {type(queries).__name__}")
        if queries is not None:
            queries = slice(*map(compiling.number, _parts(queries)))
        if queries is not None and not all(p is None or hasattr(p, "__index__") for p in _parts(queries)):
            raise TypeError(f"queries: Received takes a slice of whole numbers, got {queries}")
        if queries is not None and queries.step is not None and queries.step < 1:
            raise ValueError(f"queries: Received takes a slice with a step of at least 1, got {queries}")
        self.queries = slice(None) if queries is None else queries

    @property
    def adds_up(self) -> bool:
        """Where all queries count."""
        return self.queries == slice(None)

    @property
    def numbers(self) -> Numbers:
        """The slice."""
        return _parts(self.queries)

    @classmethod
    def again(cls, numbers: Numbers, functions: Iterator[Expression], name: str) -> Received:
        """The sum over a slice."""
        return cls(slice(*numbers))

    def dense(self, dense: Dense) -> Tensor:
        """The dense definition."""
        return dense.weights[..., self.queries, :].sum(-2)

    def start(self, problem: Problem) -> Tensor:
        """Zeros."""
        return problem.query.new_zeros((*problem.batch, problem.heads, problem.k_len), dtype=problem.dtype)

    def update(self, state: Tensor, weights: Tensor, place: dict[str, Tensor], problem: Problem) -> None:
        """Add the tile's column sums."""
        state.index_add_(-1, place["k"], weights[..., self._counted(place, problem), :].sum(-2))

    def weight_gradient(self, gradient: Tensor, place: dict[str, Tensor], problem: Problem) -> Tensor:
        """That of its key, where the query counts."""
        return gradient.index_select(-1, place["k"])[..., None, :] * self._counted(place, problem)[:, None]

    def _counted(self, place: dict[str, Tensor], problem: Problem) -> Tensor:
        """Which queries of a tile count, bool [queries]."""
        chosen = range(problem.q_len)[self.queries]
        rows = place["q"].flatten()
        return (rows >= chosen.start) & (rows < chosen.stop) & ((rows - chosen.start) % chosen.step == 0)

    def of_queries(self, queries: range, whole: Problem) -> Received | None:
        """The sum over those of the slice that are among them."""
        chosen = range(whole.q_len)[self.queries]
        first = chosen.start + max(0, -(-(queries.start - chosen.start) // chosen.step)) * chosen.step
        stop = min(chosen.stop, queries.stop)
        if first >= stop:
            return None
        return Received(slice(first - queries.start, stop - queries.start, chosen.step))

    def in_positions(self, result: Tensor, k_start: int) -> Tensor:
        """Keys before the first received nothing."""
        return pad(result, (k_start, 0))

    def without_padded_keys(self, result: Tensor, padded: Tensor) -> Tensor:
        """NaN at keys of padding."""
        return result.masked_fill(padded[:, None], torch.nan)

    def joined(self, earlier: Tensor, later: Tensor, k_len: int) -> Tensor | None:
        """The sum, as long as the longer; NaN at keys of padding. None of a slice: it counts all queries together."""
        if not self.adds_up:
            return None
        both = [pad(result, (0, k_len - result.shape[-1])) for result in (earlier, later)]
        padding = both[0].isnan() | both[1].isnan()
        return (both[0].nan_to_num() + both[1].nan_to_num()).masked_fill(padding, torch.nan)


def _parts(chosen: slice) -> tuple[Any, Any, Any]:
    return chosen.start, chosen.stop, chosen.step

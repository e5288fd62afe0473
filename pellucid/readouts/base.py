"""What a readout is: a function of the attention weights that an engine computes on the way, without the matrix.

There are two families. A RowReadout describes each row; it has a state over some of the keys, and two states over
different keys merge by the rule of the online softmax, so it comes out of the one pass. A ColumnReadout sums weights
over queries; it needs each row's final lse, so it is given tiles of final weights after the row's pass.

Each readout also says densely what it means, which is what the reference engine computes and tests compare with.
A new readout is one new file here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.language import Expression, evaluate
from pellucid.softmax import Merge, Softmax, finite, largest

if TYPE_CHECKING:
    from pellucid.problem import Problem

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Tile:
    """A block of scores and where it lies. Masked scores are -inf."""

    scores: Tensor  # [*batch, heads, queries, keys]
    place: dict[str, Tensor]  # b, h, q, k, as Problem.place gives them
    dtype: torch.dtype

    @cached_property
    def softmax(self) -> Softmax:
        """The online softmax's state of this tile alone."""
        return Softmax(self._maximum, self.exponentials.sum(-1))

    @cached_property
    def exponentials(self) -> Tensor:
        """exp(score - the row's maximum in this tile), 0 where masked."""
        return torch.exp(self.scores - finite(self._maximum)[..., None])

    @cached_property
    def _maximum(self) -> Tensor:
        return largest(self.scores)

    def evaluate(self, expression: Expression) -> Tensor:
        """The values of an expression of b, h, q and k over this tile."""
        return evaluate(expression, inputs=self.place, dtype=self.dtype)[0]


@dataclass(frozen=True)
class Rows:
    """What is known of a block of rows once all their keys were seen. The sink is merged last, and is not a key."""

    keys: Softmax  # over the keys alone
    sink: Tensor | None  # [heads, 1], the sink's logit

    @cached_property
    def merge(self) -> Merge | None:
        """The keys merged with the sink."""
        if self.sink is None:
            return None
        logit = self.sink.expand_as(self.keys.maximum)
        return Merge(self.keys, Softmax(logit, torch.ones_like(logit)))

    @cached_property
    def whole(self) -> Softmax:
        """The softmax of the row, the sink counted."""
        return self.keys if self.merge is None else self.merge.whole

    @cached_property
    def sink_weight(self) -> Tensor:
        """The weight that the sink takes, [*batch, heads, queries]; 0 for a logit of -inf."""
        assert self.merge is not None
        return self.merge.right_factor / self.whole.divisor

    @cached_property
    def factor(self) -> Tensor:
        """What an unnormalised sum over the keys is multiplied by to become a sum of weights; 0 for an empty row."""
        total = self.whole.total
        share = self.merge.left_factor if self.merge is not None else (self.keys.total > 0).to(total.dtype)
        return share / self.whole.divisor


@dataclass(frozen=True)
class Dense:
    """The whole matrix, for the dense definition of a readout. Differentiable."""

    scores: Tensor  # [*batch, heads, q_len, k_len], -inf where masked
    weights: Tensor  # the same shape; a row sums to 1 less the sink's share, or to 0 when empty
    lse: Tensor  # [*batch, heads, q_len], the sink counted
    tile: Tile  # the same scores as one tile, for `evaluate`
    sink: Tensor | None  # [heads, 1]

    @cached_property
    def allowed(self) -> Tensor:
        """Where a key may be looked at."""
        return self.scores > -torch.inf


class Readout(ABC):
    """A function of the attention weights; `name` is where the observation keeps it."""

    name: str
    differentiable = False

    def __repr__(self) -> str:
        return f"<readout {self.name}>"

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The traced functions that this readout computes, if any."""
        return ()

    @property
    def size(self) -> Hashable:
        """What the size of the result depends on beside the problem: TopK's k, the bins of Pooled."""
        return None

    def check(self, problem: Problem) -> None:  # noqa: B027 - most readouts fit every problem
        """Raise ValueError if `problem` cannot be read like this."""

    @abstractmethod
    def dense(self, dense: Dense) -> Any:
        """What this readout means, from the whole matrix."""

    def map(self, result: Any, function: Callable[[Tensor], Tensor]) -> Any:
        """`function` of each tensor of `result`."""
        if isinstance(result, Tensor):
            return function(result)
        return type(result)(*(function(tensor) for tensor in result))


class RowReadout(Readout):
    """A readout of each row. Its state is a tuple of tensors [*batch, heads, queries, ...]."""

    @abstractmethod
    def of_tile(self, tile: Tile) -> State:
        """The state over this tile's keys alone, relative to the tile's own softmax."""

    @abstractmethod
    def merge(self, left: State, right: State, merge: Merge) -> State:
        """The state over both sides' keys, relative to `merge.whole`."""

    @abstractmethod
    def finish(self, state: State, rows: Rows) -> Any:
        """The result, once all keys were seen."""

    def score_gradient(self, gradient: Tensor, tile: Tile, weights: Tensor, state: State, rows: Rows) -> Tensor:
        """The gradient with respect to the tile's scores; only of a differentiable readout.

        Args:
            gradient: with respect to the result, [*batch, heads, queries].
            tile: the scores, [*batch, heads, queries, keys].
            weights: their final weights.
            state: this readout's final state.
            rows: the finished rows.

        """
        raise TypeError(f"{type(self).__name__} is not differentiable")

    def sink_gradient(self, gradient: Tensor, state: State, rows: Rows) -> Tensor | float:
        """The gradient with respect to each row's sink, [*batch, heads, queries]."""
        return 0.0


class ColumnReadout(Readout):
    """A sum over queries. Its state is one tensor that tiles add to; states over other queries or keys add up."""

    @abstractmethod
    def start(self, problem: Problem) -> Tensor:
        """The state before any tile."""

    @abstractmethod
    def update(self, state: Tensor, weights: Tensor, place: dict[str, Tensor], problem: Problem) -> None:
        """Add a tile of final weights to `state`, in place."""

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """The state over both sides' queries or keys."""
        return left + right

    def finish(self, state: Tensor, problem: Problem) -> Any:
        """The result, once all queries were seen."""
        return state

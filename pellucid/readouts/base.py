"""What a readout is: a function of the attention weights that an engine computes on the way, without the matrix.

There are two families. A RowReadout describes each row; it has a state over some of the keys, and two states over
different keys merge by the rule of the online softmax, so it comes out of the one pass. A ColumnReadout sums weights
over queries; it needs each row's final lse, so it is given tiles of final weights after the row's pass.

Each readout also says densely what it means, which is what the reference engine computes and tests compare with.
A new readout is one new file here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from pellucid.language import Expression, evaluate
from pellucid.softmax import Merge, Softmax, finite, largest

if TYPE_CHECKING:
    from pellucid.problem import Problem

State = tuple[Tensor, ...]
Numbers = tuple[int | float | None, ...]


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

    def find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Where each of `keys` is among the tile's, which has one or more, and whether it is."""
        own, order = self.place["k"].sort()
        place = torch.searchsorted(own, keys.contiguous()).clamp(max=len(own) - 1)
        return order[place], own[place] == keys

    def of_weights(self, shares: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
        """The gradient with respect to the scores, [*batch, heads, queries, keys], of results that are weights.

        D weight j / d score k = weight j (1 if k is its key - weight k).

        Args:
            shares: each result's weight times its gradient, [*batch, heads, queries, n].
            keys: the key of each, of the same shape; -1 for none.
            weights: the tile's.

        """
        place, found = self.find(keys)
        own = torch.zeros_like(weights).scatter_add(-1, place, shares.masked_fill(~found, 0.0))
        return own - weights * shares.sum(-1, keepdim=True)


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
    """A function of the attention weights; `name` is where the observation keeps it.

    It says everything about itself: whoever runs, writes or joins readouts asks it, and knows none by its class. What
    is not overridden holds for a readout whose result is a tensor, and which is made from no numbers and functions.

    Attributes:
        name: where the observation keeps the result.
        differentiable: whether gradients flow through the result; where not, engines cut them off. Of a result of
            several tensors they flow through the first; the others are whole numbers.
        is_lse: whether the result is the lse, which every call gives anyway.
        per_head: whether the result has a dimension of heads, after those of the batch.
        joined_by: how what machines read, each of queries of its own, becomes one: "sum" or "max"; None if it does not.
        joins_rows: whether what a user gets of it is `joined_rows` of what an engine gives, of all rows and sequences.

    """

    name: str
    differentiable = False
    is_lse = False
    per_head = True
    joins_rows = False
    joined_by: str | None = None

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

    @property
    def numbers(self) -> Numbers:
        """The numbers that it is made from, by which a graph of torch.compile keeps it."""
        return ()

    @classmethod
    def again(cls, numbers: Numbers, functions: Iterator[Expression], name: str) -> Readout:
        """An equal readout, from its numbers and the next of its traced functions; those with functions have a name."""
        return cls(*numbers)

    @property
    def lengths(self) -> dict[str, int]:
        """How far an input of its functions goes that stands for something else than the call's b, h, q or k."""
        return {}

    def check(self, problem: Problem) -> None:  # noqa: B027 - most readouts fit every problem
        """Raise ValueError if `problem`, whose tensors may have no numbers yet, cannot be read like this."""

    def check_numbers(self, problem: Problem) -> None:  # noqa: B027 - most readouts hold none
        """Raise ValueError for numbers in its tensors that do not fit `problem`; asked whenever an engine runs it."""

    @abstractmethod
    def dense(self, dense: Dense) -> Any:
        """What this readout means, from the whole matrix."""

    @abstractmethod
    def empty(self, problem: Problem) -> Any:
        """A result of `problem` with nothing in it, for its shapes and dtypes."""

    def result_of(self, tensors: Iterator[Tensor]) -> Any:
        """The result whose tensors come next; the inverse of `tensors_of`."""
        return next(tensors)

    def joined_rows(self, result: Any) -> Any:
        """What a user gets of an engine's result, or of that without padding: the result itself, as a rule."""
        return result

    def map(self, result: Any, function: Callable[[Tensor], Tensor]) -> Any:
        """`function` of each tensor of `result`."""
        return self.result_of(map(function, tensors_of(result)))

    # The calls of a watched model, whose results have the shape [batch, heads, ...].

    def of_heads(self, result: Any, heads: Tensor) -> Any:
        """The result of some heads, by their numbers."""
        return self.map(result, lambda tensor: tensor[:, heads]) if self.per_head else result

    def for_keys(self, k_len: int) -> Readout:
        """What is read of a call that has no more keys than these."""
        return self

    def renumbered(self, change: Callable[[Expression], Expression]) -> Readout:
        """The same with its functions of a place changed, for a call that counts its queries and keys otherwise."""
        return self

    def reading(self, change: Callable[[Any], Any]) -> Readout:
        """The same with its functions reading what `change` makes of each tensor that they captured."""
        return self

    def in_positions(self, result: Any, k_start: int) -> Any:
        """The result of a call whose first key is the sequence's `k_start`-th, with keys counted from the first."""
        return result

    @abstractmethod
    def without_padding(self, result: Any, padded: Tensor) -> Any:
        """The result with its rows of padding blank; `padded` is bool [batch, queries].

        Of sums over queries it is given one to which rows of padding added nothing.
        """

    def without_padded_keys(self, result: Any, padded: Tensor) -> Any:
        """The result with NaN at keys of padding, if it has a place for each; `padded` is bool [batch, keys]."""
        return result

    @abstractmethod
    def joined(self, earlier: Any, later: Any, k_len: int) -> Any:
        """The result over earlier queries and later ones of the same sequence as one; None where they do not make one.

        `k_len` are the keys of the longer of both.
        """


def tensors_of(result: Any) -> tuple[Tensor, ...]:
    """The tensors that a readout's result is made of."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


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
        """The gradient with respect to the tile's scores, of their shape; only of a differentiable readout.

        Args:
            gradient: with respect to the result, of its shape: as a rule [*batch, heads, queries]; of a result of
                several tensors to the first.
            tile: the scores, [*batch, heads, queries, keys].
            weights: their final weights.
            state: this readout's final state.
            rows: the finished rows.

        Raises:
            TypeError: this one has none.

        """
        raise TypeError(f"{type(self).__name__} has no score_gradient, so it is not differentiable")

    def sink_gradient(self, gradient: Tensor, state: State, rows: Rows) -> Tensor | float:
        """The gradient with respect to each row's sink, [*batch, heads, queries]."""
        return 0.0

    def of_ranges(self, left: Any, right: Any, shares: tuple[Tensor, Tensor]) -> Any:
        """The result of rows over two ranges of keys, from the results over each; None if it cannot be told from them.

        Args:
            left: over some keys, which come before the others.
            right: over the others; None of a sink.
            shares: how much of each row's weight either has, [*batch, heads, queries].

        """
        return None

    def empty(self, problem: Problem) -> Any:
        """A number a row."""
        return problem.query.new_empty(problem.rows, dtype=problem.dtype)

    def queries_at(self, problem: Problem) -> int:
        """The dimension of the queries in the result's tensors."""
        return len(problem.batch) + self.per_head

    def without_padding(self, result: Any, padded: Tensor) -> Any:
        """Rows of padding are NaN, and -1 in whole numbers."""

        def blank(tensor: Tensor) -> Tensor:
            rows = padded.unflatten(1, (*(1,) * self.per_head, -1, *(1,) * (tensor.ndim - 2 - self.per_head)))
            return tensor.masked_fill(rows, torch.nan if tensor.is_floating_point() else -1)

        return self.map(result, blank)

    def joined(self, earlier: Any, later: Any, k_len: int) -> Any:
        """The rows one after another."""
        pairs = zip(tensors_of(earlier), tensors_of(later), strict=True)
        return self.result_of(torch.cat(pair, 1 + self.per_head) for pair in pairs)


class ColumnReadout(Readout):
    """A sum over queries. Its state is one tensor that tiles add to; states over other queries or keys add up.

    Attributes:
        of_keys: whether the last dimension of the result is that of the keys.

    """

    joined_by: str | None = "sum"
    of_keys = False

    @property
    def adds_up(self) -> bool:
        """Whether the results of some queries and of others, each [batch, heads, keys], add up to that of both."""
        return False

    @abstractmethod
    def start(self, problem: Problem) -> Tensor:
        """The state before any tile."""

    @abstractmethod
    def update(self, state: Tensor, weights: Tensor, place: dict[str, Tensor], problem: Problem) -> None:
        """Add a tile of final weights to `state`, in place.

        Args:
            state: what `start` made, changed by the tiles before.
            weights: [*batch, heads, queries, keys], the sink counted, in the problem's precision.
            place: their indices b, h, q and k, int64, as `Problem.place` gives them.
            problem: the call.

        """

    def weight_gradient(self, gradient: Tensor, place: dict[str, Tensor], problem: Problem) -> Tensor:
        """The gradient with respect to a tile's weights, which broadcasts to their shape; of a differentiable readout.

        Args:
            gradient: with respect to the result, of its shape.
            place: the tile's indices, as in `update`.
            problem: the call.

        Raises:
            TypeError: this one has none.

        """
        raise TypeError(f"{type(self).__name__} has no weight_gradient, so it is not differentiable")

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """The state over both sides' queries or keys."""
        return left + right

    def finish(self, state: Tensor, problem: Problem) -> Any:
        """The result, once all queries were seen."""
        return state

    def of_queries(self, queries: range, whole: Problem) -> ColumnReadout | None:
        """What a call of some of the queries reads of this; None where none of them counts.

        Args:
            queries: their positions, with all keys.
            whole: the call of all queries.

        Raises:
            TypeError: this one cannot be read in parts.

        """
        raise TypeError(
            f"{type(self).__name__} has no of_queries, so it is not read where queries lie on several ranks"
        )

    def state_of(self, result: Any, queries: range, whole: Problem) -> Tensor:
        """The state of `whole` that a result of some of the queries is: what `start` makes, where no tile was seen."""
        return cast("Tensor", result)

    def empty(self, problem: Problem) -> Any:
        """Like the state."""
        return self.start(problem)

    def without_padding(self, result: Any, padded: Tensor) -> Any:
        """As it is: to a sum, rows of padding added nothing."""
        return result

    def joined(self, earlier: Any, later: Any, k_len: int) -> Any:
        """Nothing: it is read from all queries together, where query and key are kept."""
        return None

"""Expect: the mean of any function of the place under the weights; most named statistics are one line of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pellucid.language import Expression, trace
from pellucid.language.expression import cast
from pellucid.language.shift import with_tensors
from pellucid.readouts.base import Dense, Numbers, RowReadout, Rows, State, Tile
from pellucid.softmax import Merge


class Expect(RowReadout):
    """`observation[name]`, [..., heads, queries]: the sum over the keys of weight[q, k] * fn(b, h, q_idx, kv_idx).

    A sink takes weight and adds nothing; a row with no key has 0. Differentiable, also in float tensors that `fn`
    captured.

    Args:
        fn: a function in the score language, of a bool (a mass) or a number.
        name: where the observation keeps the result.

    Raises:
        TypeError: `name` is no text, or an empty one.
        TraceError: `fn` uses what the score language does not have.

    """

    differentiable = True

    def __init__(self, fn: Callable[..., Any], name: str) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"name: Expect needs a name to be found by, got {name!r}")
        self.name = name
        self.expression = cast(trace(fn, "Expect", ("b", "h", "q", "k")), "float")

    @classmethod
    def again(cls, numbers: Numbers, functions: Iterator[Expression], name: str) -> Expect:
        """The readout of a function that was traced before."""
        made = cls.__new__(cls)
        made.name, made.expression = name, cast(next(functions), "float")
        return made

    def renumbered(self, change: Callable[[Expression], Expression]) -> Expect:
        """The mean of the changed function."""
        changed = change(self.expression)
        return self if changed is self.expression else self.again((), iter((changed,)), self.name)

    def reading(self, change: Callable[[Any], Any]) -> Expect:
        """The mean of the function of other tensors."""
        return self.renumbered(lambda function: with_tensors(function, change))

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The traced function."""
        return (self.expression,)

    def dense(self, dense: Dense) -> Tensor:
        """The dense definition."""
        return (dense.weights * self._values(dense.tile)).sum(-1)

    def of_tile(self, tile: Tile) -> State:
        """The sum of exp(s - m) f."""
        return ((tile.exponentials * self._values(tile)).sum(-1),)

    def merge(self, left: State, right: State, merge: Merge) -> State:
        """Both sums, each scaled to the common maximum."""
        return (left[0] * merge.left_factor + right[0] * merge.right_factor,)

    def finish(self, state: State, rows: Rows) -> Tensor:
        """The sum, normalised."""
        return state[0] * rows.factor

    def of_ranges(self, left: Tensor, right: Tensor | None, shares: tuple[Tensor, Tensor]) -> Tensor:
        """The mean of both, by their shares."""
        own = shares[0] * left
        return own if right is None else own + shares[1] * right

    def score_gradient(self, gradient: Tensor, tile: Tile, weights: Tensor, state: State, rows: Rows) -> Tensor:
        """D E / d score = weight (f - E)."""
        return gradient[..., None] * weights * (self._values(tile) - self.finish(state, rows)[..., None])

    def sink_gradient(self, gradient: Tensor, state: State, rows: Rows) -> Tensor:
        """The sink's f is 0."""
        return -gradient * rows.sink_weight * self.finish(state, rows)

    def _values(self, tile: Tile) -> Tensor:
        # Where a key is masked, f may be anything, NaN included.
        return torch.where(tile.scores == -torch.inf, 0.0, tile.evaluate(self.expression))


def mean_distance() -> Expect:
    """`observation["mean_distance"]`: the mean of |q_idx - kv_idx| under the weights, in tokens."""
    return Expect(lambda b, h, q_idx, kv_idx: abs(q_idx - kv_idx), "mean_distance")


def mass_on_first() -> Expect:
    """`observation["mass_on_first"]`: the weight on the first key, where models park what they do not need."""
    return Expect(lambda b, h, q_idx, kv_idx: kv_idx == 0, "mass_on_first")


def mass_on_previous() -> Expect:
    """`observation["mass_on_previous"]`: the weight on the key just before the query."""
    return Expect(lambda b, h, q_idx, kv_idx: kv_idx == q_idx - 1, "mass_on_previous")

"""Renyi: the entropies of every order, from the number of keys (0) to what the largest weight leaves (inf)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.language import Expression
from pellucid.readouts.base import Dense, Numbers, RowReadout, Rows, State, Tile
from pellucid.readouts.entropy import LOWEST
from pellucid.softmax import Merge, Softmax, finite, largest
from pellucid.tensors import compiling

NEAR = 0.5  # up to this far from 1, the sums of both powers are too close to one another for a difference
HIGHEST = 1e30  # beyond, no row tells an order from infinity


class Renyi(RowReadout):
    """`observation.renyi`, [..., heads, queries], in nats: log(sum of weight ** order) / (1 - order).

    Order 0 is the log of the number of keys allowed, 1 Shannon's entropy, 2 minus the log of the sum of squared
    weights, `math.inf` minus the log of the largest weight; the higher the order, the less small weights count. A row
    with no key has 0. With `sink=True` a sink is one more outcome, as softmax makes it; with `sink=False` the weights
    of the keys are first scaled to sum to 1. Differentiable; the gradient is 0 at order 0, and at infinity goes evenly
    to the largest.

    Args:
        order: from 0 to `math.inf`.
        sink: whether a sink counts.

    Raises:
        TypeError: `order` is no number, or `sink` no bool.
        ValueError: an order below 0, or NaN.

    """

    name = "renyi"
    differentiable = True

    def __init__(self, order: float, sink: bool = True) -> None:
        order, sink = compiling.number(order), compiling.number(sink)
        if not isinstance(order, int | float) or isinstance(order, bool):
            raise TypeError(f"order: Renyi takes a number from 0, got {order!r}")
        if not order >= 0:
            raise ValueError(f"order: Renyi takes a number from 0, got {order!r}")
        if not isinstance(sink, bool):
            raise TypeError(f"sink: Renyi takes True or False, got {sink!r}")
        self.order = float(order) if order <= HIGHEST else math.inf
        self.sink: bool = sink
        self._sums = _sums_of(self.order)

    @property
    def numbers(self) -> Numbers:
        """The order, and whether a sink counts."""
        return self.order, int(self.sink)

    @classmethod
    def again(cls, numbers: Numbers, functions: Iterator[Expression], name: str) -> Renyi:
        """The entropy of an order."""
        order, sink = numbers
        assert order is not None
        return cls(order, bool(sink))

    def dense(self, dense: Dense) -> Tensor:
        """The dense definition."""
        outcomes = dense.scores
        if self.sink and dense.sink is not None:
            outcomes = torch.cat([outcomes, dense.sink[..., None].expand(*outcomes.shape[:-1], 1)], -1)
        distance = _distance(outcomes, finite(largest(outcomes)))
        sums, total = self._sums.term(distance).sum(-1), distance.exp().sum(-1)
        return self._entropy(sums, total)

    def of_tile(self, tile: Tile) -> State:
        """The sum over the keys of a function of their distance below the largest."""
        return (self._sums.term(_distance(tile.scores, tile.softmax.shift)).sum(-1),)

    def merge(self, left: State, right: State, merge: Merge) -> State:
        """Both sums, each moved to the common maximum."""
        return (self._moved(left[0], merge.left, merge.whole) + self._moved(right[0], merge.right, merge.whole),)

    def finish(self, state: State, rows: Rows) -> Tensor:
        """The entropy of the sums."""
        sums, softmax = self.outcomes(state, rows)
        return self._entropy(sums, softmax.total).clamp(min=0.0)

    def score_gradient(self, gradient: Tensor, tile: Tile, weights: Tensor, state: State, rows: Rows) -> Tensor:
        """D H / d score."""
        sums, softmax = self.outcomes(state, rows)
        return gradient[..., None] * self._slope(_distance(tile.scores, softmax.shift), sums, softmax)

    def sink_gradient(self, gradient: Tensor, state: State, rows: Rows) -> Tensor | float:
        """The same for the sink, if it counts."""
        if not self.sink or rows.sink is None:
            return 0.0
        sums, softmax = self.outcomes(state, rows)
        distance = _distance(rows.sink.expand_as(softmax.total)[..., None], softmax.shift)
        return gradient * self._slope(distance, sums, softmax)[..., 0]

    def _moved(self, sums: Tensor, own: Softmax, whole: Softmax) -> Tensor:
        return self._sums.moved(sums, own.total, _distance(own.maximum[..., None], whole.shift)[..., 0])

    def outcomes(self, state: State, rows: Rows) -> tuple[Tensor, Softmax]:
        """The sums over all that counts, and its softmax."""
        if not self.sink or rows.merge is None:
            return state[0], rows.keys
        sink = rows.merge.right.maximum
        alone = self._sums.term(_distance(sink[..., None], finite(sink))[..., 0])
        return self.merge(state, (alone,), rows.merge)[0], rows.whole

    def _entropy(self, sums: Tensor, total: Tensor) -> Tensor:
        """The entropy of the sums; 0 where nothing is."""
        empty = total == 0
        return self._sums.entropy(sums.masked_fill(empty, 1.0), total.masked_fill(empty, 1.0)).masked_fill(empty, 0.0)

    def _slope(self, distance: Tensor, sums: Tensor, softmax: Softmax) -> Tensor:
        """D H / d score of outcomes at these distances, [..., queries, outcomes]."""
        sums = sums.masked_fill(softmax.total == 0, 1.0)
        return self._sums.slope(distance, sums[..., None], softmax.divisor[..., None])


def _distance(scores: Tensor, shift: Tensor) -> Tensor:
    """How far scores [..., queries, outcomes] are below the largest of their row: -inf for what is masked alone."""
    return (scores - shift[..., None]).clamp(min=LOWEST).masked_fill(scores == -torch.inf, -torch.inf)


class _Sums(ABC):
    """What is summed up over a row for an order a, of d = score - the largest, beside l = the sum of e^d."""

    @abstractmethod
    def term(self, distance: Tensor) -> Tensor:
        """What an outcome adds; nothing where it is masked."""

    @abstractmethod
    def moved(self, sums: Tensor, total: Tensor, step: Tensor) -> Tensor:
        """A sum relative to a maximum higher by -`step`; `total` is the l of before."""

    @abstractmethod
    def entropy(self, sums: Tensor, total: Tensor) -> Tensor:
        """The entropy of a whole row."""

    @abstractmethod
    def slope(self, distance: Tensor, sums: Tensor, total: Tensor) -> Tensor:
        """Its derivative with respect to a score."""


class _Count(_Sums):
    """Order 0: how many outcomes there are."""

    def term(self, distance: Tensor) -> Tensor:
        return (distance > -torch.inf).to(distance)

    def moved(self, sums: Tensor, total: Tensor, step: Tensor) -> Tensor:
        return sums

    def entropy(self, sums: Tensor, total: Tensor) -> Tensor:
        return sums.log() + 0.0 * total  # of a row that is NaN, NaN

    def slope(self, distance: Tensor, sums: Tensor, total: Tensor) -> Tensor:
        return torch.zeros_like(distance)


@dataclass(frozen=True)
class _Near(_Sums):
    """Orders around 1: T / (a - 1), where T = sum of e^d expm1((a - 1) d), the sum of e^(a d) less l; at 1 of e^d d.

    Below 1 a term is written as e^(a d) expm1((1 - a) d) / (1 - a), in which nothing overflows.
    """

    order: float

    def term(self, distance: Tensor) -> Tensor:
        d, bend = distance.clamp(min=LOWEST), abs(self.order - 1.0)
        return (min(self.order, 1.0) * d).exp() * (torch.expm1(bend * d) / bend if bend else d)

    def moved(self, sums: Tensor, total: Tensor, step: Tensor) -> Tensor:
        return (self.order * step).exp() * sums + total * self.term(step)

    def entropy(self, sums: Tensor, total: Tensor) -> Tensor:
        bend, mean = self.order - 1.0, sums / total
        return total.log() - (torch.log1p(bend * mean) / bend if bend else mean)

    def slope(self, distance: Tensor, sums: Tensor, total: Tensor) -> Tensor:
        # -a w expm1((a - 1) (log w + H)) / (a - 1), w the weight
        entropy = self.entropy(sums, total)
        return -self.order * (-entropy).exp() * self.term(distance - total.log() + entropy)


@dataclass(frozen=True)
class _Far(_Sums):
    """Other orders: S = sum of e^(a d)."""

    order: float

    def term(self, distance: Tensor) -> Tensor:
        masked = distance == -torch.inf  # which no order is multiplied by: in float32 it may be 0
        return (self.order * distance.clamp(min=LOWEST)).exp().masked_fill(masked, 0.0)

    def moved(self, sums: Tensor, total: Tensor, step: Tensor) -> Tensor:
        return sums * self.term(step)

    def entropy(self, sums: Tensor, total: Tensor) -> Tensor:
        bend = self.order - 1.0
        return total.log() * (self.order / bend) - sums.log() / bend

    def slope(self, distance: Tensor, sums: Tensor, total: Tensor) -> Tensor:
        return (distance.exp() / total - self.term(distance) / sums) * (self.order / (self.order - 1.0))


class _Largest(_Sums):
    """Order infinity: how many outcomes share the maximum, which the gradient alone needs."""

    def term(self, distance: Tensor) -> Tensor:
        return (distance == 0).to(distance)

    def moved(self, sums: Tensor, total: Tensor, step: Tensor) -> Tensor:
        return sums * (step == 0)

    def entropy(self, sums: Tensor, total: Tensor) -> Tensor:
        return total.log()

    def slope(self, distance: Tensor, sums: Tensor, total: Tensor) -> Tensor:
        return distance.exp() / total - self.term(distance) / sums


def _sums_of(order: float) -> _Sums:
    if order in (0.0, math.inf):
        return _Largest() if order else _Count()
    return _Near(order) if abs(order - 1.0) < NEAR else _Far(order)

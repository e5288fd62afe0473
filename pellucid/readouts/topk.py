"""TopK: for each row, the keys that received most, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pellucid.readouts.base import Dense, RowReadout, Rows, State, Tile
from pellucid.softmax import Merge
from pellucid.tensors import compiling
from pellucid.tensors.transformed import is_transformed

if TYPE_CHECKING:
    from pellucid.problem import Problem


class TopKeys(NamedTuple):
    """The largest weights of each row and the keys they belong to, [..., heads, queries, k], largest first."""

    weights: Tensor
    keys: Tensor  # int64; -1, with weight 0, where the row has fewer keys allowed


class TopK(RowReadout):
    """`observation.topk.weights` and `.keys`, [..., heads, queries, k]: the k largest weights of each row.

    Among equal scores the lower key comes first. Where fewer than k keys are allowed, the weight is 0 and the key -1;
    in a row that is NaN every weight is NaN and every key -1. The weights are differentiable, the keys stay chosen.

    Args:
        k: how many, from 1 to the number of keys.

    Raises:
        ValueError: `k` is not whole or less than 1; more keys than there are, only once it is asked of a call.

    """

    name = "topk"
    differentiable = True

    def __init__(self, k: int) -> None:
        k = compiling.number(k)
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k: TopK takes a whole number of keys from 1, got {k!r}")
        self.k = k

    @property
    def size(self) -> int:
        """How many."""
        return self.k

    @property
    def numbers(self) -> tuple[int]:
        """How many."""
        return (self.k,)

    def check(self, problem: Problem) -> None:
        """Raise ValueError if there are fewer than k keys."""
        if self.k > problem.k_len:
            raise ValueError(f"k: TopK({self.k}) asks for more keys than there are ({problem.k_len})")

    def dense(self, dense: Dense) -> TopKeys:
        """The dense definition."""
        scores, keys = dense.scores.sort(dim=-1, descending=True, stable=True)
        scores, keys = scores[..., : self.k], keys[..., : self.k]
        return _finished(dense.weights.gather(-1, keys), scores, keys, dense.lse)

    def of_tile(self, tile: Tile) -> State:
        """The k largest scores of the tile and their keys."""
        scores, chosen = _largest(tile.scores, self.k)
        missing = self.k - scores.shape[-1]
        keys = tile.place["k"][chosen]
        return (
            torch.nn.functional.pad(scores, (0, missing), value=-torch.inf),
            torch.nn.functional.pad(keys, (0, missing), value=-1),
        )

    def merge(self, left: State, right: State, merge: Merge) -> State:
        """The k largest of both sides."""
        scores, keys = (torch.cat(pair, -1) for pair in zip(left, right, strict=True))
        scores, keys = _ordered(scores, keys)
        return scores[..., : self.k], keys[..., : self.k]

    def finish(self, state: State, rows: Rows) -> TopKeys:
        """The scores as weights."""
        scores, keys = state
        return _finished(rows.whole.weights(scores), scores, keys, rows.whole.total)

    def score_gradient(self, gradient: Tensor, tile: Tile, weights: Tensor, state: State, rows: Rows) -> Tensor:
        """That of the weights."""
        return tile.of_weights(_shares(gradient, state, rows), state[1], weights)

    def sink_gradient(self, gradient: Tensor, state: State, rows: Rows) -> Tensor:
        """The sink is none of the keys."""
        return -rows.sink_weight * _shares(gradient, state, rows).sum(-1)

    def empty(self, problem: Problem) -> TopKeys:
        """K of each a row."""
        shape = (*problem.rows, self.k)
        weights = problem.query.new_empty(shape, dtype=problem.dtype)
        return TopKeys(weights, weights.new_empty(shape, dtype=torch.int64))

    def result_of(self, tensors: Iterator[Tensor]) -> TopKeys:
        """Weights and keys."""
        return TopKeys(next(tensors), next(tensors))

    def for_keys(self, k_len: int) -> TopK:
        """No more than there are."""
        return self if self.k <= k_len else TopK(k_len)

    def in_positions(self, result: TopKeys, k_start: int) -> TopKeys:
        """The keys moved, but where there is none."""
        return TopKeys(result.weights, torch.where(result.keys < 0, -1, result.keys + k_start))

    def joined(self, earlier: TopKeys, later: TopKeys, k_len: int) -> TopKeys:
        """The rows one after another, as wide as the wider."""
        k = max(earlier.keys.shape[-1], later.keys.shape[-1])
        joined: TopKeys = super().joined(_widened(earlier, k), _widened(later, k), k_len)
        return joined


def _widened(result: TopKeys, k: int) -> TopKeys:
    missing = k - result.keys.shape[-1]
    pad = torch.nn.functional.pad
    return TopKeys(pad(result.weights, (0, missing)), pad(result.keys, (0, missing), value=-1))


def _ordered(scores: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """By falling score, and by rising key among equal scores."""
    keys, by_key = keys.sort(-1)
    scores, by_score = scores.gather(-1, by_key).sort(dim=-1, descending=True, stable=True)
    return scores, keys.gather(-1, by_score)


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest along the last dimension, the lower place first among equals."""
    if scores.shape[-1] > k and not is_transformed(scores):
        # torch.topk breaks ties as it likes: trust it only where the k-th value is alone.
        values, places = scores.topk(k + 1, dim=-1)
        tied = (values[..., -1] == values[..., -2]) & (values[..., -1] > -torch.inf)
        if not bool(tied.any()):
            return _ordered(values[..., :k], places[..., :k])
    values, places = scores.sort(dim=-1, descending=True, stable=True)
    return values[..., :k], places[..., :k]


def _shares(gradient: Tensor, state: State, rows: Rows) -> Tensor:
    """Each weight times its gradient, [*batch, heads, queries, k]."""
    return rows.whole.weights(state[0]) * gradient


def _finished(weights: Tensor, scores: Tensor, keys: Tensor, total: Tensor) -> TopKeys:
    """No key where there is none allowed, and none in a row whose total, or its logarithm, is NaN: it has no order."""
    none = (scores == -torch.inf) | total.isnan()[..., None]
    return TopKeys(weights, keys.masked_fill(none, -1))

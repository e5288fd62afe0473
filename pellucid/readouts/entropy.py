"""Entropy: how spread each row is, from 0 (all weight on one key) to log(keys)."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.readouts.base import Dense, RowReadout, Rows, State, Tile
from pellucid.softmax import Merge, Softmax, finite, largest

# Stands for -inf where it is multiplied by a weight of 0.
LOWEST = -1e30


class Entropy(RowReadout):
    """`observation.entropy`, [..., heads, queries], in nats: -sum of weight * log(weight). A row with no key has 0.

    With `sink=True` a sink is one more outcome, as softmax makes it; with `sink=False` the weights of the keys are
    first scaled to sum to 1. Without a sink in the call both are the same. Differentiable.

    The state is t = sum of exp(s - m) (s - m), and the entropy log(l) - t / l: this keeps its digits where the
    textbook lse - E[s] cancels.
    """

    name = "entropy"
    differentiable = True

    def __init__(self, sink: bool = True) -> None:
        self.sink = sink

    @property
    def numbers(self) -> tuple[int]:
        """Whether a sink counts."""
        return (int(self.sink),)

    def dense(self, dense: Dense) -> Tensor:
        """The dense definition."""
        outcomes = dense.scores
        if self.sink and dense.sink is not None:
            outcomes = torch.cat([outcomes, dense.sink[..., None].expand(*outcomes.shape[:-1], 1)], -1)
        masked = outcomes == -torch.inf
        distance = torch.where(masked, 0.0, outcomes - finite(largest(outcomes.detach()))[..., None]).clamp(min=LOWEST)
        exponentials = torch.where(masked, 0.0, distance.exp())
        total = exponentials.sum(-1).masked_fill(masked.all(-1), 1.0)
        return total.log() - (exponentials * distance).sum(-1) / total

    def of_tile(self, tile: Tile) -> State:
        """The sum of exp(s - m) (s - m)."""
        distance = (tile.scores - tile.softmax.shift[..., None]).clamp(min=LOWEST)
        return ((tile.exponentials * distance).sum(-1),)

    def merge(self, left: State, right: State, merge: Merge) -> State:
        """Both sums, each shifted to the common maximum."""
        return (
            _shifted(left[0], merge.left, merge.left_factor, merge.whole)
            + _shifted(right[0], merge.right, merge.right_factor, merge.whole),
        )

    def finish(self, state: State, rows: Rows) -> Tensor:
        """log(l) - t / l."""
        t, softmax = state[0], rows.keys
        if self.sink and rows.merge is not None:
            (t,), softmax = self.merge(state, (torch.zeros_like(t),), rows.merge), rows.whole
        empty = softmax.total == 0
        total = softmax.total.masked_fill(empty, 1.0)
        return (total.log() - t / total).clamp(min=0.0).masked_fill(empty, 0.0)

    def of_ranges(self, left: Tensor, right: Tensor | None, shares: tuple[Tensor, Tensor]) -> Tensor:
        """The mean of both, and the entropy of the shares themselves."""
        if right is None:
            if not self.sink:
                return left
            right = torch.zeros_like(left)
        return shares[0] * left + shares[1] * right + torch.special.entr(shares[0]) + torch.special.entr(shares[1])

    def score_gradient(self, gradient: Tensor, tile: Tile, weights: Tensor, state: State, rows: Rows) -> Tensor:
        """D H / d score = -weight (log weight + H)."""
        softmax = rows.whole if self.sink else rows.keys
        weights = weights if self.sink else softmax.weights(tile.scores)
        log_weights = softmax.log_weights(tile.scores).clamp(min=LOWEST)
        return -gradient[..., None] * weights * (log_weights + self.finish(state, rows)[..., None])

    def sink_gradient(self, gradient: Tensor, state: State, rows: Rows) -> Tensor | float:
        """The same for the sink, if it counts."""
        if not self.sink or rows.sink is None:
            return 0.0
        log_weight = (rows.sink - rows.whole.shift - rows.whole.divisor.log()).clamp(min=LOWEST)
        return -gradient * rows.sink_weight * (log_weight + self.finish(state, rows))


def _shifted(t: Tensor, own: Softmax, factor: Tensor, whole: Softmax) -> Tensor:
    distance = (own.maximum - whole.shift).clamp(min=LOWEST)
    return factor * (t + own.total * distance)

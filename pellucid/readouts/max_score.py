"""MaxScore: the largest score of each row, as training monitors and QK-clip need it."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.readouts.base import Dense, RowReadout, Rows, State, Tile
from pellucid.softmax import Merge, largest


class MaxScore(RowReadout):
    """`observation.max_scores`, [..., heads, queries]: the largest score over the keys allowed, after score_mod.

    A sink is not counted; a row with no key has -inf. Differentiable: equal maxima share the gradient evenly, as in
    torch.amax. The same as FlexAttention's `max_scores`.
    """

    name = "max_scores"
    differentiable = True

    def dense(self, dense: Dense) -> Tensor:
        """The dense definition."""
        return largest(dense.scores)

    def of_tile(self, tile: Tile) -> State:
        """How many keys share the maximum."""
        return ((tile.scores == tile.softmax.maximum[..., None]).sum(-1),)

    def merge(self, left: State, right: State, merge: Merge) -> State:
        """The count of the side that holds the maximum, or of both."""
        maximum = merge.whole.maximum
        return (left[0] * (merge.left.maximum == maximum) + right[0] * (merge.right.maximum == maximum),)

    def finish(self, state: State, rows: Rows) -> Tensor:
        """The maximum over the keys."""
        return rows.keys.maximum

    def score_gradient(self, gradient: Tensor, tile: Tile, weights: Tensor, state: State, rows: Rows) -> Tensor:
        """Shared evenly among the keys that have the maximum."""
        holds = (tile.scores == rows.keys.maximum[..., None]) & (tile.scores > -torch.inf)
        return holds * (gradient / state[0].clamp(min=1))[..., None]

"""MaxScore: the largest score of each row, as training monitors and QK-clip need it."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.readouts.base import Dense, RowReadout, Rows, State, Tile
from pellucid.softmax import Merge, largest


class MaxScore(RowReadout):
    """`observation.max_scores`, [..., heads, queries]: the largest score over the keys allowed, after score_mod.

    A sink is not counted; a row with no key has -inf. Differentiable: the gradient goes to the key that is largest, of
    equal ones to the first, as in torch.max. The same as FlexAttention's `max_scores`.
    """

    name = "max_scores"
    differentiable = True

    def dense(self, dense: Dense) -> Tensor:
        """The dense definition."""
        if not dense.scores.shape[-1]:
            return largest(dense.scores)
        maximum = dense.scores.max(-1).values
        return maximum.masked_fill(maximum == -torch.inf, -torch.inf)  # no gradient to a row without a key

    def of_tile(self, tile: Tile) -> State:
        """The first key that has the maximum, -1 where there is none."""
        maximum = tile.softmax.maximum
        if not tile.scores.shape[-1]:
            return (torch.full_like(maximum, -1, dtype=torch.int64),)
        return (tile.place["k"][tile.scores.argmax(-1)].masked_fill(maximum == -torch.inf, -1),)

    def merge(self, left: State, right: State, merge: Merge) -> State:
        """The key of the side that holds the maximum, of both the first."""
        mine, its = merge.left.maximum, merge.right.maximum
        first = torch.minimum(left[0], right[0])
        return (torch.where(mine > its, left[0], torch.where(its > mine, right[0], first)),)

    def finish(self, state: State, rows: Rows) -> Tensor:
        """The maximum over the keys."""
        return rows.keys.maximum

    def score_gradient(self, gradient: Tensor, tile: Tile, weights: Tensor, state: State, rows: Rows) -> Tensor:
        """All of it at the first key that has the maximum."""
        return (tile.place["k"] == state[0][..., None]) * gradient[..., None]

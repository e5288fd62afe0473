"""LogSumExp: the log of the softmax's denominator, by which any weight can be had again from its score."""

from __future__ import annotations

from torch import Tensor

from pellucid.readouts.base import Dense, RowReadout, Rows, State, Tile
from pellucid.softmax import Merge


class LogSumExp(RowReadout):
    """`observation.lse`, [..., heads, queries]: log of the sum of exp(score), natural log.

    A sink is counted; a row with no key has -inf. Differentiable. The same as FlexAttention's `lse`.
    """

    name = "lse"
    differentiable = True
    is_lse = True

    def without_padding(self, result: Tensor, padded: Tensor) -> Tensor:
        """As it is: weights are computed from it."""
        return result

    def dense(self, dense: Dense) -> Tensor:
        """The dense definition."""
        return dense.lse

    def of_tile(self, tile: Tile) -> State:
        """Nothing beside the softmax itself."""
        return ()

    def merge(self, left: State, right: State, merge: Merge) -> State:
        """Nothing beside the softmax itself."""
        return ()

    def finish(self, state: State, rows: Rows) -> Tensor:
        """The lse of the row, the sink counted."""
        return rows.whole.lse

    def of_ranges(self, left: Tensor, right: Tensor | None, shares: tuple[Tensor, Tensor]) -> Tensor:
        """Nothing: who joins ranges joins their lse first."""
        return left

    def score_gradient(self, gradient: Tensor, tile: Tile, weights: Tensor, state: State, rows: Rows) -> Tensor:
        """D lse / d score = weight."""
        return gradient[..., None] * weights

    def sink_gradient(self, gradient: Tensor, state: State, rows: Rows) -> Tensor:
        """D lse / d sink = the sink's weight."""
        return gradient * rows.sink_weight

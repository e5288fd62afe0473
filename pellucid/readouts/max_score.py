"""MaxScore: the largest score of each row, or of each head, as training monitors and QK-clip need it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pellucid.language import Expression
from pellucid.readouts.base import Dense, Numbers, RowReadout, Rows, State, Tile
from pellucid.softmax import Merge, largest
from pellucid.tensors import compiling


class MaxScore(RowReadout):
    """`observation.max_scores`, [..., heads, queries]: the largest score over the keys allowed, after score_mod.

    A sink is not counted; a row with no key has -inf. Differentiable: the gradient goes to the key that is largest, of
    equal ones to the first, as in torch.max. The same as FlexAttention's `max_scores`.

    Args:
        per_head: whether the largest of each query head is given alone, over all its rows and sequences but padding:
            `observation.head_max_scores`, [heads], what QK-clip asks for.

    Raises:
        TypeError: `per_head` is no bool.

    """

    name = "max_scores"
    differentiable = True

    def __init__(self, per_head: bool = False) -> None:
        per_head = compiling.number(per_head)
        if not isinstance(per_head, bool):
            raise TypeError(f"per_head: MaxScore takes True or False, got {per_head!r}")
        if per_head:
            self.name, self.joins_rows, self.joined_by = "head_max_scores", True, "max"

    @property
    def numbers(self) -> Numbers:
        """Whether rows are joined, if they are."""
        return (1,) if self.joins_rows else ()

    @classmethod
    def again(cls, numbers: Numbers, functions: Iterator[Expression], name: str) -> MaxScore:
        """An equal readout."""
        return cls(bool(numbers))

    def joined_rows(self, result: Tensor) -> Tensor:
        """The largest of each head, if rows are joined: of [*batch, heads, queries]."""
        if not self.joins_rows:
            return result
        rows = result.movedim(-2, 0).flatten(1)
        return rows.max(1).values if rows.shape[1] else rows.new_full(rows.shape[:1], -torch.inf)

    def of_heads(self, result: Any, heads: Tensor) -> Any:
        """The result of some heads, by their numbers."""
        return result[heads] if self.joins_rows else super().of_heads(result, heads)

    def without_padding(self, result: Any, padded: Tensor) -> Any:
        """Rows of padding are NaN, or where rows are joined -inf: they are not the largest."""
        blank = super().without_padding(result, padded)
        return result.masked_fill(padded[:, None], -torch.inf) if self.joins_rows else blank

    def joined(self, earlier: Any, later: Any, k_len: int) -> Any:
        """The rows one after another, or the larger of each head."""
        return earlier.maximum(later) if self.joins_rows else super().joined(earlier, later, k_len)

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

    def of_ranges(self, left: Tensor, right: Tensor | None, shares: tuple[Tensor, Tensor]) -> Tensor:
        """The larger; a sink is not counted."""
        return left if right is None else left.maximum(right)

    def score_gradient(self, gradient: Tensor, tile: Tile, weights: Tensor, state: State, rows: Rows) -> Tensor:
        """All of it at the first key that has the maximum."""
        return (tile.place["k"] == state[0][..., None]) * gradient[..., None]

"""The online softmax: the running state of a row, and the one rule by which two of them over different keys merge.

The same merge serves a block of keys, a thread's share of them and a machine's share (Milakov and Gimelshein 2018,
Rabe and Staats 2021). What rides on it, the output and the readouts of a row, is rescaled by `Merge`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Softmax(NamedTuple):
    """The running state of each row: its largest score, and the sum of exp(score - maximum)."""

    maximum: Tensor  # [..., queries], -inf before any key is allowed
    total: Tensor  # [..., queries]

    @property
    def lse(self) -> Tensor:
        """Log of the sum of exp(score): -inf for a row with no key."""
        return self.maximum + self.total.log()

    @property
    def shift(self) -> Tensor:
        """What to subtract from scores before exp: the maximum, or 0 for a row with no key yet."""
        return finite(self.maximum)

    @property
    def divisor(self) -> Tensor:
        """The total, or 1 for a row with no key."""
        return self.total.masked_fill(self.total == 0, 1.0)

    def weights(self, scores: Tensor) -> Tensor:
        """The weights of scores [..., queries, keys].

        Not exp(score - lse): maximum and log of the total are added there, and of a large maximum's sum the digits are
        lost that the weights need.
        """
        return (scores - self.shift[..., None]).exp_().mul_(self.divisor.reciprocal()[..., None])

    def log_weights(self, scores: Tensor) -> Tensor:
        """Their natural logarithms."""
        return (scores - self.shift[..., None]).sub_(self.divisor.log()[..., None])


def finite(maximum: Tensor) -> Tensor:
    """`maximum` with -inf replaced by 0, so that subtracting it from -inf is not NaN."""
    return maximum.masked_fill(maximum == -torch.inf, 0.0)


def largest(scores: Tensor) -> Tensor:
    """The largest score of each row, [..., queries]: -inf where there is none, and no gradient to a row of -inf."""
    if scores.shape[-1] == 0:
        return scores.new_full(scores.shape[:-1], -torch.inf)
    maximum = scores.amax(-1)
    return maximum.masked_fill(maximum == -torch.inf, -torch.inf)


@dataclass(frozen=True)
class Merge:
    """Two partial softmaxes of the same rows over different keys, and what each side is multiplied by in the whole."""

    left: Softmax
    right: Softmax

    @cached_property
    def whole(self) -> Softmax:
        """The state of both sides together."""
        total = self.left.total * self.left_factor + self.right.total * self.right_factor
        return Softmax(self._maximum, total)

    @cached_property
    def _maximum(self) -> Tensor:
        return torch.maximum(self.left.maximum, self.right.maximum)

    @cached_property
    def left_factor(self) -> Tensor:
        """exp(left maximum - whole maximum), [..., queries]."""
        return torch.exp(self.left.maximum - finite(self._maximum))

    @cached_property
    def right_factor(self) -> Tensor:
        """exp(right maximum - whole maximum), [..., queries]."""
        return torch.exp(self.right.maximum - finite(self._maximum))

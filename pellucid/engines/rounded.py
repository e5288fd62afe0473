"""Rows whose lse is so large that it has lost the digits which their weights need: those are made from all their keys.

A weight is exp(score - lse). A float32 has an lse of up to 256 to 8e-6; of 4e4 its last digit is 0.4 %, and of 1e10
more than a row's whole range. Where scores are that large, another order of adding up a score is of the same size, so
that a row only sums to 1 if one computation makes all of its scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

LARGE = 256.0
AT_ONCE = 1 << 22  # scores


def is_rounded(lse: Tensor) -> Tensor:
    """Whether each row is one of these; NaN and rows with no key are not."""
    return (lse.abs() > LARGE) & lse.isfinite()


def has_any(lse: Tensor) -> bool:
    """Whether any row is one of these; what is usual is found by the fewest operations."""
    return not bool((lse.abs() <= LARGE).all()) and bool(is_rounded(lse).any())


def replaced(weights: Tensor, lse: Tensor, keys: int, whole: Callable[[Tensor], Tensor]) -> Tensor:
    """`weights` with such rows replaced, in place.

    Args:
        weights: from the lse, [*batch, heads, rows, chosen keys].
        lse: [*batch, heads, rows].
        keys: how many there are in all.
        whole: gives the weights of some rows, by their places, out of their softmax.

    """
    rounded = is_rounded(lse)
    for some in places(rounded, keys):
        weights[..., some, :] = torch.where(rounded[..., some, None], whole(some), weights[..., some, :])
    return weights


def places(rounded: Tensor, keys: int) -> Iterator[Tensor]:
    """Where `rounded` rows are in any batch or head, as many at a time as memory is meant for."""
    found = rounded.flatten(0, -2).any(0).nonzero().flatten()
    pairs = rounded.shape[:-1].numel()
    return iter(found.split(max(1, AT_ONCE // max(1, keys * pairs)))) if len(found) else iter(())

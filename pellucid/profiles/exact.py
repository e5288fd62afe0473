"""Sums without rounding: numbers in fixed point, 2⁻⁶⁴ apart, so that no order of adding changes a bit.

A number is four limbs of 32 bits in int64, lowest first: limb i counts 2^(32 i - 64). Limbs add like any integers, some
2³¹ numbers before one must be carried. What is carried has limbs from 0 to 2³² - 1, but for the highest, which has the
sign: there is one such form of each sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIMBS = 4
_BITS = 32
_MASK = (1 << _BITS) - 1
_POINT = 64  # bits after the point
LARGEST = 2.0**62


def exact(values: Tensor) -> Tensor:
    """Float64 numbers [...] as limbs, int64 [..., LIMBS]; what is smaller than 2⁻⁶⁴ is cut off.

    Raises:
        ValueError: a number is not finite, or 2⁶² or more.

    """
    values = values.double()
    if not bool((values.abs() < LARGEST).all()):
        raise ValueError(f"exact: numbers below {LARGEST:g} are needed")
    whole = values.floor()
    high = (values - whole) * 2.0**_BITS
    low = (high - high.floor()) * 2.0**_BITS
    integer = whole.to(torch.int64)
    return torch.stack([low.to(torch.int64), high.to(torch.int64), integer & _MASK, integer >> _BITS], -1)


def total(limbs: Tensor, dim: int) -> Tensor:
    """The sum of numbers along a dimension, carried."""
    return carried(limbs.sum(dim))


def carried(limbs: Tensor) -> Tensor:
    """The same numbers in the one form that their sum has."""
    found = limbs.clone()
    for place in range(LIMBS - 1):
        found[..., place + 1] += found[..., place] >> _BITS
        found[..., place] &= _MASK
    return found


def is_carried(limbs: Tensor) -> bool:
    """Whether numbers are in the one form that `carried` gives."""
    lower = limbs[..., :-1]
    return bool(((lower >= 0) & (lower <= _MASK)).all())


def integers(limbs: Tensor) -> list[int]:
    """Each number, the last dimension being its limbs, in units of 2⁻⁶⁴."""
    rows = limbs.reshape(-1, LIMBS).tolist()
    return [sum(limb << (_BITS * place) for place, limb in enumerate(row)) for row in rows]


def rounded(limbs: Tensor) -> Tensor:
    """The float64 next to each number."""
    found = [number / (1 << _POINT) for number in integers(limbs)]
    return torch.tensor(found, dtype=torch.float64, device="cpu").reshape(limbs.shape[:-1])


def mean(limbs: Tensor, counts: Tensor) -> Tensor:
    """Each sum over its count, rounded once; NaN where nothing was counted."""
    pairs = zip(integers(limbs), counts.expand(limbs.shape[:-1]).flatten().tolist(), strict=True)
    found = [number / (count << _POINT) if count else torch.nan for number, count in pairs]
    return torch.tensor(found, dtype=torch.float64, device="cpu").reshape(limbs.shape[:-1])


def ratio(totals: Tensor, weights: Tensor) -> Tensor:
    """One sum over another, rounded once; NaN over nothing."""
    pairs = zip(integers(totals), integers(weights), strict=True)
    found = [number / weight if weight else torch.nan for number, weight in pairs]
    return torch.tensor(found, dtype=torch.float64, device="cpu").reshape(totals.shape[:-1])


def variance(sums: Tensor, squares: Tensor, counts: Tensor) -> Tensor:
    """The variance of the numbers themselves, not of a sample: mean square less squared mean, rounded once."""
    found = []
    for one, square, count in zip(integers(sums), integers(squares), counts.flatten().tolist(), strict=True):
        exactly = (square << _POINT) * count - one * one
        found.append(max(exactly, 0) / (count * count << 2 * _POINT) if count else torch.nan)
    return torch.tensor(found, dtype=torch.float64, device="cpu").reshape(counts.shape)

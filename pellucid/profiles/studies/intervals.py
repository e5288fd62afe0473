"""How sure a share or a difference of means is: Wilson's interval, Welch's, and Holm's correction for many at once."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

LEVEL = 0.95
_Z = 1.959963984540054  # of LEVEL, two-sided
_STEPS = 300  # of the continued fraction; far more than any number of documents takes
_NEWTON = 12


class Interval(NamedTuple):
    """Where a number lies with a confidence of 95 %."""

    low: float
    high: float


def wilson(count: int, total: int) -> Interval:
    """Wilson's interval of a share of which `count` of `total` were seen; from 0 to 1 where nothing was seen.

    Unlike the share plus or minus its standard error it holds for few documents and for shares near 0 and 1.
    """
    if not total:
        return Interval(0.0, 1.0)
    share, extra = count / total, _Z * _Z / total
    middle = (share + extra / 2) / (1 + extra)
    half = _Z * sqrt(share * (1 - share) / total + extra / (4 * total)) / (1 + extra)
    return Interval(max(0.0, middle - half) if count else 0.0, min(1.0, middle + half) if count < total else 1.0)


def student(t: Tensor, freedom: Tensor) -> Tensor:
    """The probability that Student's t is further from 0 than this, either way, float64."""
    x = freedom / (freedom + t.square())
    a, b = freedom / 2, torch.full_like(freedom, 0.5)
    return _incomplete_beta(x, a, b)


def student_bound(freedom: Tensor) -> Tensor:
    """The t within which 95 % lie, float64."""
    inverse = 1 / freedom
    z = torch.full_like(freedom, _Z)
    t = z + (z**3 + z) / 4 * inverse + (5 * z**5 + 16 * z**3 + 3 * z) / 96 * inverse.square()
    half = (freedom + 1) / 2
    scale = torch.lgamma(half) - torch.lgamma(freedom / 2) - 0.5 * torch.log(freedom * torch.pi)
    for _ in range(_NEWTON):
        slope = 2 * torch.exp(scale - half * torch.log1p(t.square() * inverse))
        t = torch.maximum(t + (student(t, freedom) - (1 - LEVEL)) / slope, t / 2)
    return t


def holm(probabilities: Tensor) -> Tensor:
    """Each probability after Holm's correction: of what is below 5 %, the chance that any is so by accident is 5 %.

    NaN stays, and counts for nothing.
    """
    flat = probabilities.flatten()
    known = flat[~flat.isnan()]
    order = known.argsort()
    times = torch.arange(len(known), 0, -1, dtype=known.dtype, device="cpu")
    adjusted = torch.empty_like(known)
    adjusted[order] = (known[order] * times).cummax(0).values.clamp(max=1.0) if len(known) else known
    found = flat.clone()
    found[~flat.isnan()] = adjusted
    return found.reshape(probabilities.shape)


def _incomplete_beta(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The regularised incomplete beta function, by its continued fraction on the side where that converges soon."""
    turned = x > (a + 1) / (a + b + 2)
    x, a, b = torch.where(turned, 1 - x, x), torch.where(turned, b, a), torch.where(turned, a, b)
    scale = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
    front = torch.exp(scale + a * torch.log(x) + b * torch.log1p(-x)) / a
    part = torch.where(x > 0, front * _fraction(x, a, b), 0.0)
    return torch.where(turned, 1 - part, part).clamp(0.0, 1.0)


def _fraction(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    tiny = 1e-300
    c = torch.ones_like(x)
    d = 1 / _off_zero(1 - (a + b) * x / (a + 1), tiny)
    found = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = found
        for factor in (even, odd):
            d = 1 / _off_zero(1 + factor * d, tiny)
            c = _off_zero(1 + factor / c, tiny)
            found = found * d * c
        if not bool(((found - before).abs() > 1e-14 * found.abs()).any()):
            break
    return found


def _off_zero(values: Tensor, tiny: float) -> Tensor:
    return torch.where(values.abs() < tiny, tiny, values)

"""Quantiles of many columns of numbers, each within 1 % of the number itself: the bins of a DDSketch.

Bins are fixed, each 2 % wide, so counts of parts add up to those of the whole to the bit; sketches whose bins depend on
what came before (KLL, t-digest) do not. `ddsketch` is the library of the same bins.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

ACCURACY = 0.01  # relative, of a quantile
_SPREAD = 2 * ACCURACY / (1 - ACCURACY)
_LOG_GAMMA = math.log1p(_SPREAD)
SMALLEST = 1e-9  # what is less counts as 0
PLACES = 1 << 12  # bins of a column
_ZERO = 0  # the bin of 0
_MIDDLE = PLACES // 2  # the bin of key 0, of numbers up to 1


class Sketch(NamedTuple):
    """Counts of columns of numbers, those that are not 0: bin `code % PLACES` of column `code // PLACES`."""

    codes: Tensor  # int64, ascending
    counts: Tensor  # int64

    def merged(self, other: Sketch) -> Sketch:
        """The sketch of both."""
        codes, inverse = torch.unique(torch.cat([self.codes, other.codes]), return_inverse=True)
        counts = torch.zeros_like(codes).scatter_add_(0, inverse, torch.cat([self.counts, other.counts]))
        return Sketch(codes, counts)

    def of_column(self, column: int) -> Sketch:
        """The bins of one column, counted from 0."""
        ends = torch.tensor([column * PLACES, (column + 1) * PLACES], device="cpu")
        start, stop = torch.searchsorted(self.codes, ends).tolist()
        return Sketch(self.codes[start:stop] - column * PLACES, self.counts[start:stop])

    def quantiles(self, column: int, shares: list[float]) -> list[float]:
        """The numbers below which these shares of a column lie; NaN of an empty one."""
        bins, counts = self.of_column(column)
        if not len(bins):
            return [math.nan] * len(shares)
        reached = counts.cumsum(0)
        ranks = torch.tensor([share * (int(reached[-1]) - 1) for share in shares], device="cpu", dtype=torch.float64)
        places = torch.searchsorted(reached.double(), ranks, right=True).clamp(max=len(bins) - 1)
        return [_value(place) for place in bins[places].tolist()]

    def library(self, column: int) -> Any:
        """A column as a `ddsketch.DDSketch`.

        Raises:
            ModuleNotFoundError: ddsketch is not installed.

        """
        from ddsketch import DDSketch

        made = DDSketch(ACCURACY)
        bins, counts = self.of_column(column)
        for place, count in zip(bins.tolist(), counts.tolist(), strict=True):
            made.add(_value(place), count)
        return made


def empty() -> Sketch:
    """The sketch of nothing."""
    nothing = torch.zeros(0, dtype=torch.int64, device="cpu")
    return Sketch(nothing, nothing)


def sketch_of(values: Tensor, columns: Tensor) -> Sketch:
    """The sketch of numbers from 0, float64, each of a column, int64; NaN is not counted."""
    known = ~values.isnan()
    values, columns = values[known], columns[known]
    keys = (values.clamp(min=SMALLEST).log() / _LOG_GAMMA).ceil().to(torch.int64)
    places = torch.where(values < SMALLEST, _ZERO, (keys + _MIDDLE).clamp(1, PLACES - 1))
    return Sketch(*torch.unique(columns * PLACES + places, return_counts=True))


def _value(place: int) -> float:
    """The number that stands for a bin: no number of the bin is further from it than ACCURACY of itself."""
    return 0.0 if place == _ZERO else math.exp((place - _MIDDLE) * _LOG_GAMMA) * 2 / (2 + _SPREAD)

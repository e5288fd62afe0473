"""What the heads of one layer did, in numbers, each with the sink and without: docs/numerics.md defines them.

With the sink, a number is the mean over the rows. Without it, the learned sink and the first key are left out and every
unit of weight that is left counts the same: a sum over the rows, divided by the weight that the rows put elsewhere. A
row that puts little elsewhere therefore counts little, and no row is divided by almost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.record.layer import Layer
from pellucid.record.studies.allowed import Allowed, allowed_of
from pellucid.record.studies.beyond import NEAR, PREFIX
from pellucid.record.studies.repeats import Repeats

LEAST_LEFT = 1e-6  # mean weight beyond the sink, below which float32 leaves nothing to describe


class Ratio(NamedTuple):
    """A number of each head in each sequence, as a sum over its rows and what that sum is divided by.

    What several sequences sum to, over what they divide it by, is the number of all of their rows.
    """

    total: Tensor  # float64 [batch, heads], NaN where it was not read
    weight: Tensor  # float64 [batch, heads]
    left_rows: Tensor  # int64 [batch, heads]: of how many rows the weight is what is left; 0 where it is anything else
    rows: Tensor | None = None  # what each row has of it, [batch, heads, q_len], NaN where the row does not count

    @property
    def value(self) -> Tensor:
        """The number of each sequence, [batch, heads], NaN where it means nothing."""
        enough = self.weight > LEAST_LEFT * self.left_rows
        return self.total / torch.where(enough, self.weight, torch.nan)

    def of_all(self) -> Tensor:
        """The number of all sequences together, [heads]."""
        return Ratio(self.total.sum(0), self.weight.sum(0), self.left_rows.sum(0)).value


class Pair(NamedTuple):
    """A number with the sink, and without."""

    with_sink: Ratio
    without_sink: Ratio


@dataclass(frozen=True)
class HeadNumbers:
    """The numbers of one layer's heads, over the rows of each sequence that are no padding.

    Args:
        layer: what was observed, with the readings of `summary_readouts` and those that Beside adds; a number whose
            reading is missing is NaN.

    """

    layer: Layer

    @property
    def rows(self) -> Tensor:
        """How many rows of each sequence are counted, int64 [batch]."""
        return self.counted[:, 0].sum(-1)

    @cached_property
    def sink_mass(self) -> Ratio:
        """The mean weight that the learned sink takes; 0 where there is none."""
        return self._mean(self._sink)

    @cached_property
    def first_mass(self) -> Ratio:
        """The mean weight on the first key."""
        return self._mean(self._first)

    @cached_property
    def sink(self) -> Ratio:
        """Both together."""
        return self._mean(None if self._first is None else self._sink + self._first)

    @cached_property
    def entropy(self) -> Pair:
        """Nats."""
        return Pair(self._mean(self._entropy), self._share(self._rest_entropy))

    @cached_property
    def relative_entropy(self) -> Pair:
        """The entropy over that of equal weights on the same keys, 0 to 1."""
        outcomes = (self._allowed.keys + self.layer.has_sink).clamp(min=1).double().log()
        others = self._allowed.beyond_first.clamp(min=1).double().log()
        rest = None if self._beyond is None else self._beyond * others
        return Pair(self._over(self._entropy, outcomes), self._over(self._rest_entropy, rest))

    @cached_property
    def distance(self) -> Pair:
        """Mean tokens between query and key."""
        return self._pair("distance", self._from_first.abs())

    @cached_property
    def previous(self) -> Pair:
        """Weight on the token before the query, over the rows that have one."""
        return self._pair("previous", self._from_first == 1, self._from_first > 0)

    @cached_property
    def nearby(self) -> Pair:
        """Weight on keys at most NEAR places away."""
        return self._pair("nearby", self._from_first.abs() <= NEAR)

    @cached_property
    def duplicate(self) -> Pair:
        """Weight on other occurrences of the query's token, over the rows that can see one."""
        if self._repeats is None:
            return Pair(self._unknown, self._unknown)
        return self._pair("duplicate", self._repeats.of_first, self._repeats.seen)

    @cached_property
    def induction(self) -> Pair:
        """Weight on what follows other occurrences of the query's token, over the rows that can see one."""
        if self._repeats is None:
            return Pair(self._unknown, self._unknown)
        return self._pair("induction", torch.zeros((), device="cpu"), self._repeats.seen)

    @cached_property
    def concentration(self) -> Pair:
        """How unevenly the keys receive: 1 less the entropy of what they receive over that of equal shares."""
        received = self._reading("received")
        real = self._real_keys
        if received is None:
            return Pair(self._unknown, self._unknown)
        received = torch.where(real, received, 0.0)
        others = torch.where(torch.arange(self.layer.k_len, device="cpu") == self._start_of_keys, 0.0, received)
        return Pair(_unevenness(received, real.sum(-1)), _unevenness(others, real.sum(-1) - 1))

    # Rows.

    @cached_property
    def _unknown(self) -> Ratio:
        """A number that was not read."""
        nan = torch.full((self.layer.batch, self.layer.heads), torch.nan, dtype=torch.float64, device="cpu")
        return Ratio(nan, torch.zeros_like(nan), self._none)

    @cached_property
    def _none(self) -> Tensor:
        return torch.zeros(self.layer.batch, self.layer.heads, dtype=torch.int64, device="cpu")

    @cached_property
    def counted(self) -> Tensor:
        """The rows that are no padding and may look at something, bool [batch, heads, q_len]."""
        lse = self.layer.readings["lse"].detach().cpu()
        padding = self.layer.padding.queries
        return torch.isfinite(lse) & (True if padding is None else ~padding.cpu()[:, None])

    @cached_property
    def _real_keys(self) -> Tensor:
        """The keys that are no padding, bool [batch, 1, k_len]."""
        padding = self.layer.padding.keys
        if padding is None:
            return torch.ones(self.layer.batch, 1, self.layer.k_len, dtype=torch.bool, device="cpu")
        return ~padding.cpu()[:, None]

    @cached_property
    def _start_of_keys(self) -> Tensor:
        """The position of the first key that is no padding, int64 [batch, 1, 1]."""
        return self._real_keys.to(torch.uint8).argmax(-1, keepdim=True)

    @cached_property
    def _from_first(self) -> Tensor:
        """How far each query is from the first key, int64 [batch, 1, q_len]."""
        positions = torch.arange(self.layer.start, self.layer.start + self.layer.q_len, device="cpu")
        return positions - self._start_of_keys

    @cached_property
    def _allowed(self) -> Allowed:
        return Allowed(*(counts.cpu() for counts in allowed_of(self.layer)))

    @cached_property
    def _entropy(self) -> Tensor | None:
        return self._reading("entropy")

    @cached_property
    def _beyond(self) -> Tensor | None:
        """The weight on the keys that are not the first."""
        return self._reading(PREFIX)

    @cached_property
    def _sink(self) -> Tensor:
        """The weight that the learned sink takes."""
        lse = self.layer.readings["lse"].detach().cpu().double()
        if not self.layer.has_sink:
            return torch.zeros_like(lse)
        sink_mass = self._reading("sink_mass")
        return torch.full_like(lse, torch.nan) if sink_mass is None else sink_mass

    @cached_property
    def _first(self) -> Tensor | None:
        """The weight on the first key: what is left of 1."""
        return None if self._beyond is None else (1.0 - self._sink - self._beyond).clamp(min=0.0)

    @cached_property
    def _rest_entropy(self) -> Tensor | None:
        """The entropy of the weights beyond the sink scaled to sum to 1, times their sum T.

        With A = -sum of w log w over them, what the row's entropy lacks of A is known: it is T (A / T + log T).
        """
        if self._entropy is None or self._beyond is None or self._first is None:
            return None
        beyond = self._beyond
        plain = self._entropy + torch.xlogy(self._sink, self._sink) + torch.xlogy(self._first, self._first)
        return (plain + torch.xlogy(beyond, beyond)).clamp(min=0.0)

    @cached_property
    def _repeats(self) -> Repeats | None:
        known = self.layer.readings.get("repeats")
        return None if known is None else Repeats(*(flags.cpu() for flags in known))

    # Sums over them.

    def _reading(self, name: str) -> Tensor | None:
        if name not in self.layer.readings:
            return None
        return self.layer.readings[name].detach().cpu().double()

    def _rows(self, rows: Tensor | None) -> Tensor:
        """The rows that count, and are among those given."""
        return self.counted if rows is None else self.counted & rows

    def _mean(self, values: Tensor | None, rows: Tensor | None = None) -> Ratio:
        """The mean over the counted rows."""
        if values is None:
            return self._unknown
        counted = self._rows(rows)
        return Ratio(_sum(values, counted), counted.sum(-1).double(), self._none, _of_rows(values, counted))

    def _over(self, values: Tensor | None, most: Tensor | None) -> Ratio:
        """The sum of values over the sum of what they can be at most."""
        if values is None or most is None:
            return self._unknown
        counted = self.counted
        of_rows = _of_rows(values / _or_nan(most), counted)
        return Ratio(_sum(values, counted), _sum(most.expand(values.shape), counted), self._none, of_rows)

    def _share(self, values: Tensor | None, rows: Tensor | None = None) -> Ratio:
        """The sum over the counted rows over the weight that they put beyond the sink."""
        if values is None or self._beyond is None:
            return self._unknown
        counted = self._rows(rows)
        return Ratio(_sum(values, counted), _sum(self._beyond, counted), counted.sum(-1), _of_rows(values, counted))

    def _pair(self, name: str, of_first: Tensor, rows: Tensor | None = None) -> Pair:
        """The numbers of a sum `beyond_first_<name>` whose function is `of_first` at the first key."""
        beyond = self._reading(f"{PREFIX}_{name}")
        if beyond is None or self._first is None:
            return Pair(self._unknown, self._unknown)
        return Pair(self._mean(beyond + self._first * of_first, rows), self._share(beyond, rows))


def _sum(values: Tensor, counted: Tensor) -> Tensor:
    """The sum over the counted rows, float64 [batch, heads]."""
    return torch.where(counted, values, 0.0).sum(-1, dtype=torch.float64)


def _of_rows(values: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, values, torch.nan)


def _or_nan(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, torch.nan)


def _unevenness(received: Tensor, keys: Tensor) -> Ratio:
    """1 - entropy / log(keys) of each sequence's received, weighed by how much that is."""
    total = received.sum(-1)  # [batch, heads]
    shares = received / _or_nan(total)[..., None]
    uneven = 1.0 - torch.special.entr(shares).sum(-1) / _or_nan(keys.clamp(min=1).log())
    weight = torch.where(uneven.isnan(), 0.0, total)
    return Ratio(uneven.nan_to_num() * weight, weight, torch.zeros_like(total, dtype=torch.int64))

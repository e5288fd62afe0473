"""The summary of a profile: each head's numbers of all rows of all documents together, and the kind that they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.profiles import exact
from pellucid.profiles.numbers import NUMBERS
from pellucid.record.studies.head_numbers import LEAST_LEFT
from pellucid.record.studies.summary import HeadSummary, Summary, head_summary

if TYPE_CHECKING:
    from pellucid.profiles.profile import Profile


def summary(profile: Profile) -> Summary:
    """One HeadSummary a head."""
    return Summary(_rows(profile))


def _rows(profile: Profile) -> Iterator[HeadSummary]:
    rows = profile.sums["rows"].tolist()
    for head, count, values in zip(profile.heads, rows, _values(profile).tolist(), strict=True):
        yield head_summary(head.layer, head.role, head.head, count, dict(zip(NUMBERS, values, strict=True)))


def _values(profile: Profile) -> Tensor:
    """The numbers, float64 [heads, numbers], NaN where too little weight is left to describe."""
    held = profile.sums
    found = exact.ratio(held["total"], held["weight"])
    enough = exact.rounded(held["weight"]) > LEAST_LEFT * held["left_rows"]
    return torch.where(enough, found, torch.nan)

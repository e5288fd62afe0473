"""What equal weights on all keys that each query may look at would do: what a head's own are compared with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.profiles.measuring.maps import by_band
from pellucid.profiles.sums import BANDS
from pellucid.record.layer import Layer
from pellucid.record.studies.allowed import allowed_pairs

_CHUNK = 1 << 20  # pairs of a query and a key at a time


class Equal(NamedTuple):
    """Of each sequence and head, sums over its rows, float64."""

    distance: Tensor  # [batch, heads, bands]; 0 in cross-attention
    classes: Tensor  # [batch, heads, classes]


def equal_of(layer: Layer, counted: Tensor, flags: Tensor) -> Equal:
    """What equal weights would put at each distance, and on each class of keys.

    Args:
        layer: the layer.
        counted: its rows that count, bool [batch, heads, q_len].
        flags: the classes of each key, float64 [batch, k_len, classes].

    """
    alike = bool((counted == counted[:, :1]).all())
    rows_of = counted[:, :1] if alike else counted
    found = _nothing(layer, flags)
    size = max(1, _CHUNK // max(1, layer.batch * rows_of.shape[1] * layer.k_len))
    for start in range(0, layer.q_len, size):
        rows = range(start, min(start + size, layer.q_len))
        allowed = allowed_pairs(layer, rows) & rows_of[:, :, rows.start : rows.stop, None]
        equal = allowed.double() / allowed.sum(-1, keepdim=True).clamp(min=1)
        found.classes.add_(equal.sum(-2) @ flags)
        if layer.role != "cross":
            found.distance.add_(by_band(equal, layer.start + start))
    return found


def _nothing(layer: Layer, flags: Tensor) -> Equal:
    shape = layer.batch, layer.heads
    sizes = len(BANDS), flags.shape[-1]
    return Equal(*(torch.zeros(*shape, size, dtype=torch.float64, device="cpu") for size in sizes))

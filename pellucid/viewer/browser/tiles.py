"""Tiles of a map: 256 x 256 bins of 2^zq queries by 2^zk keys, pooled by mean or by maximum."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pellucid.record.layer import Layer
from pellucid.viewer.browser.asked import Asked, RefusedError
from pellucid.viewer.browser.values import Answer, exact, logs

SIDE = 256  # bins
MOST_COMPUTED = 1 << 22  # pairs of one head that are computed while somebody waits


def tile(layer: Layer, asked: Asked) -> Answer:
    """One tile. Raises RefusedError where there is none."""
    if not layer.has_weights:
        raise RefusedError("tile: the layer kept no query and key to compute it from", 404)
    levels = [asked.whole(name, 0, 27) for name in ("zq", "zk")]
    places = [asked.whole(name, 0, 1 << 27) for name in ("i", "j")]
    queries, keys = (
        _extent(name, place, level, length)
        for name, place, level, length in zip("ij", places, levels, (layer.q_len, layer.k_len), strict=True)
    )
    heads, over, pool = asked.heads(layer), asked.one_of("over", ("mean", "max")), asked.one_of("pool", ("mean", "max"))
    sequence, dtype = asked.sequence(layer.batch), asked.one_of("dtype", ("f16", "f32"))
    weights = exact(layer, sequence, heads, queries, keys, over)
    return logs(pooled(weights, 1 << levels[0], 1 << levels[1], pool), dtype, levels == [0, 0])


def _extent(name: str, place: int, level: int, length: int) -> slice:
    size = SIDE << level
    if place * size >= max(length, 1):
        raise RefusedError(f"{name}: there is no tile {place} of {size} tokens in {length}", 404)
    return slice(place * size, min((place + 1) * size, length))


def pooled(weights: Tensor, q_bin: int, k_bin: int, pool: str) -> Tensor:
    """Bins of a window's weights: the mean of the pairs that count, or the largest; NaN where none counts."""
    rows, columns = (-(-size // bin_) for size, bin_ in zip(weights.shape, (q_bin, k_bin), strict=True))
    missing = (0, columns * k_bin - weights.shape[1], 0, rows * q_bin - weights.shape[0])
    padded = pad(weights, missing, value=torch.nan).view(rows, q_bin, columns, k_bin)
    if pool == "mean":
        return padded.nanmean((1, 3))
    filled = padded.nan_to_num(nan=-1.0).amax((1, 3))
    return filled.masked_fill(filled < 0, torch.nan)

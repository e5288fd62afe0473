"""Whole maps in few bins, which are there at once or soon: the wall's thumbnails, and what a map begins with."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.record.layer import Layer
from pellucid.viewer.browser.asked import RefusedError
from pellucid.viewer.browser.place import BuildingError, Place
from pellucid.viewer.browser.pyramid.jobs import Wholes, joined
from pellucid.viewer.browser.pyramid.shown import Shown, by_head
from pellucid.viewer.browser.tiles import SMALL, check, of_pairs
from pellucid.viewer.browser.values import Answer, joined_heads, logs

MOST = 256  # bins either way
_READING = {"mean": "pooled", "max": "pooled_max"}
_LACKING = "the layer kept no query and key, and no {}: watch with keep=True or more=[pellucid.Pooled(64, 64)]"


class Maps(NamedTuple):
    """Maps of a layer's heads: the mean weight of a bin's pairs, or the largest; NaN where no query counts.

    Attributes:
        values: float32 [heads, rows, columns].
        bins: tokens of a bin, of queries and of keys; None where bin i of R is from i / R of the length to (i + 1) / R.

    """

    values: Tensor
    bins: tuple[int, int] | None


def thumbs(place: Place) -> Answer:
    """The maps of all heads. Raises RefusedError where nothing allows one, BuildingError where they come soon."""
    maps = _maps(place, place.asked.whole("most", 1, MOST, 48), place.pool)
    if maps is None:
        raise RefusedError(f"thumbs: {_LACKING.format(_READING[place.pool])}", 404)
    return _answer(maps.values, maps.bins, "f16", place.layer)


def overview(place: Place) -> Answer:
    """The map of some heads as one, as fine as it is there at once. Raises as `thumbs`."""
    pool, over, heads = place.pool, place.over, place.heads
    maps = None
    if len(heads) == 1 or pool == over:  # a mean of means, or the largest of the largest
        maps = _read(place.layer, place.sequence, MOST, pool)
    if maps is not None and not (place.layer.has_weights and _is_small(place.layer, len(heads))):
        return _answer(joined_heads(maps.values[heads], over), maps.bins, "f32", place.layer)
    if not place.layer.has_weights:
        raise RefusedError(f"overview: {_LACKING.format(_READING[pool])}", 404)
    values, bins = _computed(place, place.shown(), pool)
    return _answer(values, bins, "f32", place.layer)


def _is_small(layer: Layer, heads: int) -> bool:
    return heads * layer.q_len * layer.k_len <= SMALL


def _computed(place: Place, shown: Shown, pool: str) -> tuple[Tensor, tuple[int, int]]:
    """A whole map, computed now where it is small, else the last level of its pyramid."""
    window = slice(0, shown.size[0]), slice(0, shown.size[1])
    if _is_small(shown.whole, len(shown.heads)):
        bins = (-(-shown.size[0] // MOST), -(-shown.size[1] // MOST))
        with place.background.giving_way():
            now = shown.binned(*window, *bins, pool)
        return of_pairs(shown, now.sums if pool == "mean" else now.largest, window, bins, pool), bins
    pyramid = place.background.pyramid(place.record, shown, pool)
    check(pyramid)
    level = pyramid.layout.levels[-1]
    bins = 1 << level.z, 1 << level.z
    found = pyramid.bins(level, *window, bins, pool)
    if found is None:
        raise BuildingError(pyramid.fraction)
    return of_pairs(shown, found, window, bins, pool), bins


def _maps(place: Place, most: int, pool: str) -> Maps | None:
    """The maps of all heads in about `most` bins either way."""
    layer, sequence = place.layer, place.sequence
    read = _read(layer, sequence, most, pool)
    if not layer.has_weights or (read is not None and max(layer.q_len, layer.k_len) > most):
        return read
    shown = Shown(layer, sequence, tuple(range(layer.heads)), "mean")
    if _is_small(layer, layer.heads):
        size = -(-layer.q_len // most), -(-layer.k_len // most)
        with place.background.giving_way():
            now = by_head(layer, sequence, slice(0, layer.q_len), *size)
        found = now.sums if pool == "mean" else now.largest
    else:
        found, size = _built(place.background.wholes(place.record, layer, sequence), most, pool)
    window = slice(0, layer.q_len), slice(0, layer.k_len)
    return Maps(of_pairs(shown, found, window, size, pool), size)


def _built(job: Wholes, most: int, pool: str) -> tuple[Tensor, tuple[int, int]]:
    """Maps of all heads that were computed in the background, in at most so many bins either way, and those' sizes."""
    check(job)
    found = job.maps(pool)
    if found is None:
        raise BuildingError(job.fraction)
    groups = [-(-bins // most) for bins in found.shape[1:]]
    size = job.size[0] * groups[0], job.size[1] * groups[1]
    return torch.stack([joined(one, groups[0], groups[1], pool) for one in found]), size


def _read(layer: Layer, sequence: int, most: int, pool: str) -> Maps | None:
    """The maps that were read in the pass, neighbouring bins joined where that makes all of them alike."""
    if _READING[pool] not in layer.readings:
        return None
    maps = layer.readings[_READING[pool]][sequence].detach().cpu().float()
    by_row, by_column = (_group(bins, most) for bins in maps.shape[1:])
    grouped = maps.nan_to_num(0.0).unflatten(2, (-1, by_column)).unflatten(1, (-1, by_row))
    rows = _sizes(layer, sequence, maps.shape[1]).unflatten(0, (-1, by_row))
    counted = rows.sum(1)[:, None]
    if pool == "max":
        return Maps(grouped.amax((2, 4)).masked_fill(counted == 0, torch.nan), None)
    keys = torch.bincount(torch.arange(layer.k_len, device="cpu") * maps.shape[2] // layer.k_len)
    pairs = counted * keys.unflatten(0, (-1, by_column)).sum(1)
    return Maps((grouped * rows[:, :, None, None]).sum((2, 4)) / pairs, None)


def _sizes(layer: Layer, sequence: int, bins: int) -> Tensor:
    """How many queries of each bin are no padding, float32 [bins]."""
    padding = layer.padding.queries
    counted = torch.ones(layer.q_len, device="cpu") if padding is None else (~padding[sequence].cpu()).float()
    places = torch.arange(layer.q_len, device="cpu") * bins // layer.q_len
    return torch.zeros(bins, device="cpu").index_add_(0, places, counted)


def _group(bins: int, most: int) -> int:
    """Neighbours to join: as few as make at most `most`, if they can be of one size and do not leave far fewer."""
    for group in range(-(-bins // most), 2 * -(-bins // most)):
        if bins % group == 0:
            return group
    return 1


def _answer(maps: Tensor, bins: tuple[int, int] | None, dtype: str, layer: Layer) -> Answer:
    answer = logs(maps, dtype, maps.shape[-2:] == (layer.q_len, layer.k_len))
    if bins is not None and prod(bins) > 1:
        answer.headers["X-Bins"] = ",".join(map(str, bins))
    return answer

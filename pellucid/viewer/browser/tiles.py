"""Tiles of a map: 256 x 256 bins of 2^zq queries by 2^zk keys, pooled by mean or by maximum."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from pellucid.viewer.browser.asked import Asked, RefusedError
from pellucid.viewer.browser.place import BuildingError, Place
from pellucid.viewer.browser.pyramid.jobs import Job
from pellucid.viewer.browser.pyramid.shown import Shown
from pellucid.viewer.browser.values import Answer, logs

SIDE = 256  # bins
LARGEST_LEVEL = 27  # there are no longer sequences
AT_ONCE = 1 << 23  # weights of all heads that are computed while somebody waits
MEANWHILE = 1 << 25  # and while the pyramid is not there that would have it
SMALL = 1 << 24  # weights of a whole map, of all heads, of which everything is
MOST = 1 << 28  # weights of a tile that is computed because no pyramid has it, as of few queries and very many keys


def tile(place: Place) -> Answer:
    """One tile. Raises RefusedError where there is none, BuildingError where it is not there yet."""
    asked, shown, pool = place.asked, place.shown(), place.pool
    zq, zk = (asked.whole(name, 0, LARGEST_LEVEL, 0) for name in ("zq", "zk"))
    dtype = asked.one_of("dtype", ("f16", "f32"))
    queries, keys = (_extent(asked, *named) for named in zip("ij", (zq, zk), shown.size, strict=True))
    found = values_of(place, shown, (queries, keys), (zq, zk), pool)
    return logs(found, dtype, zq == zk == 0)


def _extent(asked: Asked, name: str, level: int, length: int) -> slice:
    size = SIDE << level
    place = asked.whole(name, 0, 1 << LARGEST_LEVEL, 0)
    if place * size >= length:
        raise RefusedError(f"{name}: there is no tile {place} of {size} tokens in {length}", 404)
    return slice(place * size, min((place + 1) * size, length))


def values_of(place: Place, shown: Shown, window: tuple[slice, slice], levels: tuple[int, int], pool: str) -> Tensor:
    """A window in bins of 2^zq queries by 2^zk keys: the mean weight of a bin's pairs, or the largest; NaN: padding.

    Args:
        place: who asks.
        shown: the map.
        window: queries and keys, from the beginning of a bin on.
        levels: zq and zk.
        pool: "mean" or "max".

    Raises:
        RefusedError: it is too much to compute at once, or a pyramid cannot be kept.
        BuildingError: the pyramid is not there yet.

    """
    bins = 1 << levels[0], 1 << levels[1]
    weights = len(shown.heads) * prod(axis.stop - axis.start for axis in window)
    is_small = weights <= AT_ONCE or len(shown.heads) * prod(shown.size) <= SMALL
    found = None if is_small else _built(place, shown, window, levels, pool, must=weights > MEANWHILE)
    if found is None and weights > MOST:
        raise RefusedError(f"zq, zk, heads: {weights} weights fall on the tile, and {MOST} are the most")
    if found is None:
        with place.background.giving_way():
            computed = shown.binned(*window, *bins, pool)
        found = computed.sums if pool == "mean" else computed.largest
    return of_pairs(shown, found, window, bins, pool)


def _built(
    place: Place, shown: Shown, window: tuple[slice, slice], levels: tuple[int, int], pool: str, *, must: bool
) -> Tensor | None:
    """The window out of the map's pyramid, which is begun; None where that has no such level, or not yet."""
    pyramid = place.background.pyramid(place.record, shown, pool)
    level = pyramid.level(*levels)
    if level is None:
        return None
    if must:
        check(pyramid)
    found = pyramid.bins(level, *window, (1 << levels[0], 1 << levels[1]), pool)
    if found is None and must:
        raise BuildingError(pyramid.fraction)
    return found


def of_pairs(shown: Shown, found: Tensor, window: tuple[slice, slice], bins: tuple[int, int], pool: str) -> Tensor:
    """Sums as means over the pairs that count, or the largest as they are; NaN where no query counts.

    Args:
        shown: the map.
        found: sums, or the largest, [..., rows, columns].
        window: queries and keys.
        bins: tokens of a bin, of queries and of keys.
        pool: "mean" or "max".

    """
    counted = shown.counted(window[0].start, bins[0], found.shape[-2])[:, None]
    if pool == "max":
        return found.masked_fill(counted == 0, torch.nan)
    length = window[1].stop - window[1].start
    keys = (length - torch.arange(found.shape[-1], device="cpu") * bins[1]).clamp(max=bins[1])
    return found / (counted * keys)  # of 0 queries NaN: 0 / 0


def check(job: Job) -> None:
    """Raise what a map that is computed in the background could not be made for."""
    if job.failure is not None:
        raise job.failure

"""Maps that are computed stripe by stripe, and can be read wherever their stripes are done."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pellucid._version import __version__
from pellucid.record.layer import Layer
from pellucid.viewer.browser.pyramid.file import DamagedError, PyramidFile, Writing
from pellucid.viewer.browser.pyramid.levels import Layout, Level, by_head, finest, halving
from pellucid.viewer.browser.pyramid.shown import Shown
from pellucid.viewer.browser.pyramid.shown import by_head as heads_apart
from pellucid.viewer.browser.pyramid.store import Store

VERSION = 1  # of what a file holds
A_STRIPE = 1 << 27  # weights of all heads, computed at once
MOST_ROWS = 256  # of a stripe
BOTH = ("mean", "max")


class Job(ABC):
    """Maps in a file, which is found or written.

    Args:
        store: where it may be.
        told: all that its numbers depend on.
        layout: of its numbers.
        rows: bins of queries.
        stripe: as many of them are computed at once, a power of two.

    Attributes:
        asked: when somebody wanted to read last.
        failure: what went wrong, if anything did.

    """

    def __init__(self, store: Store, told: dict[str, Any], layout: Layout, rows: int, stripe: int) -> None:
        self.told = told | {"version": VERSION, "pellucid": __version__}
        self.layout, self.rows, self.stripe = layout, rows, stripe
        self.asked = time.monotonic()
        self.failure: Exception | None = None
        self._store = store
        self._lock = threading.Lock()
        self._writing: Writing | None = None
        self._file: PyramidFile | None = store.found(self.told, layout)
        self._done = [self._file is not None] * -(-rows // stripe)
        self._wanted: slice | None = None  # stripes

    @property
    def is_done(self) -> bool:
        """Whether all can be read."""
        return all(self._done)

    @property
    def fraction(self) -> float:
        """The share that is done."""
        return sum(self._done) / max(len(self._done), 1)

    def has(self, rows: slice) -> bool:
        """Whether some of the bins of queries can be read; where not, they are computed next."""
        self.asked = time.monotonic()
        stripes = slice(rows.start // self.stripe, -(-rows.stop // self.stripe))
        if all(self._done[stripes]):
            return True
        self._wanted = stripes
        return False

    def read(self, level: Level, pool: str, rows: slice, columns: slice) -> Tensor | None:
        """Some numbers of a map.

        Args:
            level: of the layout.
            pool: "mean" or "max".
            rows: of the level, that are done.
            columns: of the level.

        Returns:
            float32 [rows, columns]; None where the file turned out to be damaged, and all begins anew.

        """
        assert self._file is not None
        try:
            return self._file.read(level, pool, rows, columns)
        except DamagedError:
            with self._lock:
                self._store.forget(self._file)
                self._file, self._done = None, [False] * len(self._done)
            return None

    def try_step(self) -> None:
        """Compute one stripe; what goes wrong is kept for those who ask, once no other folder has room."""
        try:
            self.step()
        except Exception as error:
            begun = self._writing
            self.close()
            if begun is not None and isinstance(error, OSError):
                self._store.failed(begun.final.parent, error)
            else:
                self.failure = error

    def step(self) -> None:
        """Compute one stripe. Raises OSError where there is no room."""
        with self._lock:
            if self.is_done:
                return
            if self._writing is None:
                self._writing = self._store.written(self.told, self.layout)
                self._file = self._writing.pyramid
            number = self._next()
            self.compute(slice(number * self.stripe, min((number + 1) * self.stripe, self.rows)), self._writing)
            if sum(self._done) + 1 == len(self._done):
                self._writing.finish(self.told)
                self._writing = None
            self._done[number] = True

    def _next(self) -> int:
        wanted = self._wanted or slice(0, 0)
        undone = [number for number in range(*wanted.indices(len(self._done))) if not self._done[number]]
        return undone[0] if undone else self._done.index(False)

    @abstractmethod
    def compute(self, rows: slice, into: Writing) -> None:
        """Compute some of the bins of queries, and write them."""

    def close(self) -> None:
        """Leave nothing unfinished behind."""
        with self._lock:
            if self._writing is not None:
                self._writing.abandon()
                self._writing, self._done = None, [False] * len(self._done)


class Pyramid(Job):
    """A map in levels, each of bins twice as long as those of the one before: sums of weights, and the largest.

    Args:
        store: where it may be.
        fingerprint: of the layer.
        shown: what it is of.
        pool: what is wanted of it; of one head both come at once.

    """

    def __init__(self, store: Store, fingerprint: str, shown: Shown, pool: str) -> None:
        self.shown = shown
        self.pools = BOTH if len(shown.heads) == 1 else (pool,)
        z = finest(shown.size, len(shown.heads))
        layout = halving(shown.size, z, self.pools)
        told = {"what": "pyramid", "finest": z, "pools": list(self.pools)} | told_of(fingerprint, shown)
        super().__init__(store, told, layout, layout.levels[0].rows, _stripe(len(shown.heads) * shown.size[1] << z))

    def level(self, zq: int, zk: int) -> Level | None:
        """The coarsest level that bins of 2^zq queries by 2^zk keys can be joined from; None if they are finer."""
        fitting = [level for level in self.layout.levels if level.z <= min(zq, zk)]
        return fitting[-1] if fitting else None

    def bins(self, level: Level, queries: slice, keys: slice, bins: tuple[int, int], pool: str) -> Tensor | None:
        """A window in bins of so many queries and keys, joined from a level; None while it is not there.

        Args:
            level: whose bins divide the window's.
            queries: of the window, from a bin's first on.
            keys: likewise.
            bins: tokens of a bin, of queries and of keys.
            pool: "mean" gives sums, "max" the largest.

        """
        fine = self.layout.levels[0].z
        if not self.has(slice(queries.start >> fine, -(-queries.stop // (1 << fine)))):
            return None
        own = (slice(axis.start >> level.z, -(-axis.stop // (1 << level.z))) for axis in (queries, keys))
        found = self.read(level, pool, *own)
        return None if found is None else joined(found, bins[0] >> level.z, bins[1] >> level.z, pool)

    def compute(self, rows: slice, into: Writing) -> None:
        """Compute some of the finest level's rows, and write what they are in every level."""
        fine = self.layout.levels[0].z
        size = 1 << fine
        queries = slice(rows.start * size, min(rows.stop * size, self.shown.size[0]))
        one = self.pools[0] if len(self.pools) == 1 else None
        found = self.shown.binned(queries, slice(0, self.shown.size[1]), size, size, one)
        for pool in self.pools:
            values = found.sums if pool == "mean" else found.largest
            for level in self.layout.levels:
                self._write(into, level, pool, rows.start >> (level.z - fine), values)
                values = joined(values, 2, 2, pool)

    def _write(self, into: Writing, level: Level, pool: str, first: int, values: Tensor) -> None:
        """Put rows into a level, of which a stripe may have a part alone."""
        if self.stripe < 1 << (level.z - self.layout.levels[0].z):
            there = into.pyramid.read(level, pool, slice(first, first + 1), slice(0, level.columns))
            values = values + there if pool == "mean" else values.maximum(there)
        into.write(level, pool, first, values)


class Wholes(Job):
    """The whole maps of all heads of a layer in one sequence: sums of weights, and the largest.

    Args:
        store: where they may be.
        fingerprint: of the layer.
        layer: the layer.
        sequence: its number in the batch.

    """

    def __init__(self, store: Store, fingerprint: str, layer: Layer, sequence: int) -> None:
        self.layer, self.sequence = layer, sequence
        most = min(256, 1 << (((1 << 19) // layer.heads).bit_length() - 1) // 2)
        self.size = -(-layer.q_len // most), -(-layer.k_len // most)  # tokens of a bin
        rows, columns = -(-layer.q_len // self.size[0]), -(-layer.k_len // self.size[1])
        shown = Shown(layer, sequence, tuple(range(layer.heads)), "mean")
        told = {"what": "whole maps", "bins": list(self.size)} | told_of(fingerprint, shown)
        stripe = _stripe(layer.heads * layer.k_len * self.size[0])
        super().__init__(store, told, by_head(layer.heads, rows, columns, BOTH), rows, stripe)

    def maps(self, pool: str) -> Tensor | None:
        """The maps, [heads, rows, columns]; None while they are not there."""
        if not self.has(slice(0, self.rows)):
            return None
        every = slice(None)
        found = [self.read(level, pool, slice(0, level.rows), every) for level in self.layout.levels]
        return None if any(one is None for one in found) else torch.stack([one for one in found if one is not None])

    def compute(self, rows: slice, into: Writing) -> None:
        """Compute some rows of all heads' maps, and write them."""
        size = self.size
        queries = slice(rows.start * size[0], min(rows.stop * size[0], self.layer.q_len))
        found = heads_apart(self.layer, self.sequence, queries, *size)
        for level in self.layout.levels:
            into.write(level, "mean", rows.start, found.sums[level.z])
            into.write(level, "max", rows.start, found.largest[level.z])


def told_of(fingerprint: str, shown: Shown) -> dict[str, Any]:
    """What the numbers of a map depend on."""
    over = shown.over if len(shown.heads) > 1 else "mean"
    return {"layer": fingerprint, "sequence": shown.sequence, "heads": list(shown.heads), "over": over}


def joined(values: Tensor, rows: int, columns: int, pool: str) -> Tensor:
    """Neighbours of a map as one.

    Args:
        values: from 0 on, [rows, columns].
        rows: how many are joined.
        columns: how many are joined.
        pool: of "mean" their sum is taken, of "max" the largest.

    """
    missing = -values.shape[0] % rows, -values.shape[1] % columns
    padded = pad(values, (0, missing[1], 0, missing[0]))
    grouped = padded.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
    return grouped.sum((1, 3)) if pool == "mean" else grouped.amax((1, 3))


def _stripe(weights: int) -> int:
    """Rows of a stripe where one has so many weights: a power of two."""
    return 1 << (max(1, min(MOST_ROWS, A_STRIPE // max(weights, 1))).bit_length() - 1)

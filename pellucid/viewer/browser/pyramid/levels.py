"""Which numbers a file of maps has, and where: the levels of a pyramid, or the whole maps of a layer's heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

FINEST = 4  # of one head: bins of 16 queries by 16 keys. What is finer is computed while somebody waits
MOST_BINS = 1 << 26  # of the finest level
TOP = 256  # bins either way that the last level has at most
CHUNK = 256  # rows that have a checksum together


class Level(NamedTuple):
    """One map of a file.

    Attributes:
        z: of a pyramid, the level, of which a bin is of 2^z queries by 2^z keys; of whole maps the head's place.
        rows: bins of queries.
        columns: bins of keys.
        first: where its numbers begin.

    """

    z: int
    rows: int
    columns: int
    first: int


@dataclass(frozen=True)
class Layout:
    """The maps of a file, each for every one of `pools`, which are some of "mean" and "max"."""

    levels: tuple[Level, ...]
    pools: tuple[str, ...]

    @property
    def numbers(self) -> int:
        """Numbers in the file."""
        return sum(len(self.pools) * level.rows * level.columns for level in self.levels)

    def place(self, level: Level, pool: str) -> int:
        """Where a level's numbers of a pool begin."""
        return level.first + self.pools.index(pool) * level.rows * level.columns

    def chunks(self) -> Iterator[tuple[Level, str, slice]]:
        """All rows of all levels, in the pieces that have a checksum each."""
        for level in self.levels:
            for pool in self.pools:
                for start in range(0, level.rows, CHUNK):
                    yield level, pool, slice(start, min(start + CHUNK, level.rows))


def halving(size: tuple[int, int], finest: int, pools: tuple[str, ...]) -> Layout:
    """The levels of a pyramid over so many queries and keys, from the finest to one of at most TOP bins either way."""
    found: list[Level] = []
    z, first = finest, 0
    while not found or max(found[-1].rows, found[-1].columns) > TOP:
        rows, columns = (-(-length // (1 << z)) for length in size)
        found.append(Level(z, rows, columns, first))
        first += len(pools) * rows * columns
        z += 1
    return Layout(tuple(found), pools)


def by_head(heads: int, rows: int, columns: int, pools: tuple[str, ...]) -> Layout:
    """A map of every head.

    Args:
        heads: how many.
        rows: bins of queries.
        columns: bins of keys.
        pools: some of "mean" and "max".

    """
    each = len(pools) * rows * columns
    return Layout(tuple(Level(head, rows, columns, head * each) for head in range(heads)), pools)


def finest(size: tuple[int, int], heads: int) -> int:
    """The finest level of a map of so many queries and keys.

    The more heads are joined, the finer: so much less of the map can be computed while somebody waits.
    """
    z = max(0, FINEST - ((heads - 1).bit_length() + 1) // 2)
    while prod(-(-length // (1 << z)) for length in size) > MOST_BINS:
        z += 1
    return z

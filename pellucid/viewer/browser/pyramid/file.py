"""A pyramid's file: float32 numbers, level after level, with a checksum of every stretch of rows at its end.

While it is built it has another name and no end; what its name says, a process that is killed leaves behind.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pellucid.record.disk.plain_file import MappedFile, open_plain, size_of
from pellucid.viewer.browser.pyramid.levels import Layout, Level

ENDING = ".maps"
UNFINISHED = ".part"
_MAGIC = b"pellucid"
_TAIL = struct.Struct("<Q8s")  # the bytes of what is told before it, and the magic
_LARGEST = 1 << 24  # bytes of what is told
_NUMBER = np.dtype("<f4")
_numbers = count()  # of unfinished files


class DamagedError(Exception):
    """A pyramid that is not what it should be: it is built again."""


class PyramidFile:
    """The numbers of one pyramid on the disk, mapped into memory.

    Args:
        path: of the file.
        file: the file itself.
        layout: of its numbers.
        checksums: of every chunk, in the order of `layout.chunks()`; None while it is built.

    """

    def __init__(self, path: Path, file: BinaryIO, layout: Layout, checksums: list[int] | None = None) -> None:
        self.path, self.layout = path, layout
        self._unchecked = {} if checksums is None else dict(zip(_names(layout), checksums, strict=True))
        self._mapped = MappedFile(path)
        self._numbers = np.memmap(file, _NUMBER, "r", shape=(layout.numbers,))

    def finished(self, path: Path) -> None:
        """Say that what was built has its end, and this name."""
        self.path, self._mapped = path, MappedFile(path)

    def read(self, level: Level, pool: str, rows: slice, columns: slice) -> Tensor:
        """Some bins of a level, float32.

        Args:
            level: of the layout.
            pool: "mean" or "max".
            rows: of the level.
            columns: of the level.

        Raises:
            DamagedError: their checksum is another, or the file was cut since it was opened.

        """
        if not self._mapped.is_as_long:
            raise DamagedError(f"{self.path}: was cut since it was opened")
        if self._unchecked:
            self._check(level, pool, rows)
        return torch.from_numpy(self._of(level, pool)[rows, columns].astype(np.float32))

    def _of(self, level: Level, pool: str) -> np.ndarray[Any, Any]:
        first = self.layout.place(level, pool)
        return self._numbers[first : first + level.rows * level.columns].reshape(level.rows, level.columns)

    def _check(self, level: Level, pool: str, rows: slice) -> None:
        for chunk in self.layout.chunks():
            own, its_pool, its_rows = chunk
            name = (own.z, its_pool, its_rows.start)
            if (own, its_pool) != (level, pool) or its_rows.stop <= rows.start or its_rows.start >= rows.stop:
                continue
            expected = self._unchecked.get(name)  # None where another thread has looked in the meantime
            if expected is not None and self.checksum(*chunk) != expected:
                raise DamagedError(f"{self.path}: rows from {its_rows.start} of level {level.z} have another checksum")
            self._unchecked.pop(name, None)

    def checksum(self, level: Level, pool: str, rows: slice) -> int:
        """The CRC-32 of some rows."""
        return zlib.crc32(np.ascontiguousarray(self._of(level, pool)[rows]).data)


class Writing:
    """A pyramid that is being built: rows come in any order, and can be read at once.

    Args:
        path: what the file will be called.
        layout: of its numbers.

    Raises:
        OSError: it cannot be written.

    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.final = path
        self.path = path.with_name(f".{path.name}.{os.getpid()}.{next(_numbers)}{UNFINISHED}")
        self._file: BinaryIO = open(self.path, "w+b")  # noqa: SIM115
        try:
            self._file.truncate(layout.numbers * _NUMBER.itemsize)
            self.pyramid = PyramidFile(self.path, self._file, layout)
        except BaseException:
            self.abandon()
            raise

    def write(self, level: Level, pool: str, first: int, values: Tensor) -> None:
        """Put rows into a level; zeros at the end of a row are there already, and take no room on the disk.

        Args:
            level: of the layout.
            pool: "mean" or "max".
            first: the first of these rows.
            values: float32 [rows, columns].

        Raises:
            OSError: they cannot be written.

        """
        beyond = values.ne(0).any(0).nonzero()
        used = int(beyond[-1]) + 1 if len(beyond) else 0
        if not used:
            return
        place = self.pyramid.layout.place(level, pool) + first * level.columns
        rows = values.numpy().astype(_NUMBER)
        pieces = [rows] if used == level.columns else [row[:used] for row in rows]
        for number, piece in enumerate(pieces):
            self._file.seek((place + number * level.columns) * _NUMBER.itemsize)
            self._file.write(np.ascontiguousarray(piece).data)
        self._file.flush()

    def finish(self, told: dict[str, Any]) -> None:
        """Add the end, and give the file its name. Raises OSError."""
        checksums = [self.pyramid.checksum(*chunk) for chunk in self.pyramid.layout.chunks()]
        content = json.dumps(told | {"checksums": checksums}).encode("ascii")
        self._file.seek(0, os.SEEK_END)
        self._file.write(content + _TAIL.pack(len(content), _MAGIC))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.path.replace(self.final)
        self.pyramid.finished(self.final)

    def abandon(self) -> None:
        """Take away what there is."""
        with suppress(OSError):  # what is buffered yet may have no room either
            self._file.close()
        self.path.unlink(missing_ok=True)


def opened(path: Path, layout: Layout, told: dict[str, Any]) -> PyramidFile:
    """A pyramid that was finished.

    Args:
        path: of the file.
        layout: of its numbers.
        told: what it must say of itself.

    Raises:
        DamagedError: it does not.
        OSError: it is not there, or cannot be read.

    """
    try:
        file = open_plain(path)
    except ValueError as error:
        raise DamagedError(str(error)) from error
    with file:
        found = _told(file, layout.numbers * _NUMBER.itemsize)
        checksums = found.pop("checksums", None)
        if found != told or not isinstance(checksums, list) or len(checksums) != len(_names(layout)):
            raise DamagedError("it is of something else")
        return PyramidFile(path, file, layout, checksums)


def _told(file: BinaryIO, numbers: int) -> dict[str, Any]:
    size = size_of(file)
    if size < numbers + _TAIL.size:
        raise DamagedError("it is cut")
    file.seek(size - _TAIL.size)
    length, magic = _TAIL.unpack(file.read(_TAIL.size))
    if magic != _MAGIC or length > _LARGEST or numbers + length + _TAIL.size != size:
        raise DamagedError("it has no end")
    file.seek(numbers)
    try:
        found = json.loads(file.read(length))
    except ValueError as error:
        raise DamagedError(str(error)) from error
    if not isinstance(found, dict):
        raise DamagedError("what it says is not of a pyramid")
    return found


def _names(layout: Layout) -> list[tuple[int, str, int]]:
    return [(level.z, pool, rows.start) for level, pool, rows in layout.chunks()]

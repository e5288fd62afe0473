"""Files of a folder that others may have filled: plain ones are opened, and nothing else is waited for or followed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

# Of a name that became a link, a pipe or a device since it was looked at, nothing is opened or waited for.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_KINDS = {
    stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def open_plain(path: Path) -> BinaryIO:
    """The file, to be read.

    Raises:
        ValueError: it is a link, a pipe, a device or whatever else is no plain file.
        OSError: it cannot be opened.

    """
    _check(os.lstat(path).st_mode)
    file = os.fdopen(os.open(path, _FLAGS), "rb")
    try:
        _check(os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


class MappedFile:
    """A file of which numbers are mapped into memory, as it was then.

    To look at what was cut off since ends the process, with no error that could be caught: so it is asked before. A
    file that another has replaced, or that is gone, stays in memory as it was.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._then = path, _found(path)

    @property
    def is_as_long(self) -> bool:
        """Whether its length is what it was."""
        return self._is_same(3)

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody has written to it."""
        return self._is_same(4)

    def _is_same(self, facts: int) -> bool:
        now, then = _found(self._path), self._then
        return now is None or then is None or now[:2] != then[:2] or now[:facts] == then[:facts]


def _found(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')} where a plain file is needed")

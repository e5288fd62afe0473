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


def _check(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')} where a plain file is needed")

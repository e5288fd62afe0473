"""A file written whole or not at all: under another name first, down to the disk, then renamed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".part"
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # of a name that is there already, be it a link, nothing is written to
_FLAGS |= sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Have `write` fill the file at `path`; whatever interrupts it, what was there before stays as it was.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.

    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{UNFINISHED}")
    unfinished.unlink(missing_ok=True)  # of a process of the same number that was killed
    descriptor = os.open(unfinished, _FLAGS, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the renaming itself to the disk, where the system has that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

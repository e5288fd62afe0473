"""Where maps are kept: beside the record, and where nothing can be written there in the user's cache folder.

A record in memory has a folder for as long as it is looked at. No folder grows beyond `LARGEST`: the files that were
used longest ago make room. What a name stands for, a file says itself, and one that is damaged counts for nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from pellucid.engines.cpu.machine import stored as kernels
from pellucid.record.disk.manifest import MAPS
from pellucid.record.record import Record
from pellucid.record.stored import StoredRecord
from pellucid.viewer.browser.pyramid.file import ENDING, UNFINISHED, DamagedError, PyramidFile, Writing, opened
from pellucid.viewer.browser.pyramid.levels import Layout

LARGEST = 1 << 32  # bytes of a folder
SPARED = 1 << 29  # bytes that stay free on the disk
FORGOTTEN = 20.0  # seconds after which a folder that had no room is tried again
ABANDONED = 3600.0  # seconds since anything was written to an unfinished file of a process that is no more


class Store:
    """The folders in which maps of one record may lie, the first that can be written to before the others."""

    def __init__(self, folders: list[Callable[[], Path]]) -> None:
        self._folders = folders
        self._failed: dict[Path, tuple[float, OSError]] = {}

    def found(self, told: dict[str, Any], layout: Layout) -> PyramidFile | None:
        """The file that says this of itself, if there is a sound one."""
        for folder in self._folders:
            with suppress(OSError, kernels.UnusableError):
                path = folder() / name_of(told)
                try:
                    file = opened(path, layout, told)
                    os.utime(path)
                    return file
                except DamagedError:
                    path.unlink()
        return None

    def written(self, told: dict[str, Any], layout: Layout) -> Writing:
        """A file to be written. Raises OSError where none of the folders has room."""
        failures: list[OSError] = []
        for folder in self._folders:
            begun = self._begun(folder, told, layout)
            if isinstance(begun, Writing):
                return begun
            failures.append(begun)
        raise failures[0]

    def _begun(self, folder: Callable[[], Path], told: dict[str, Any], layout: Layout) -> Writing | OSError:
        """A file in a folder, or why there can be none."""
        place: Path | str = "the user's cache folder"
        try:
            place = folder()
            self._check(place)
            _make(place)
            _make_room(place, layout.numbers * 4)
            return Writing(place / name_of(told), layout)
        except kernels.UnusableError as error:
            return OSError(errno.EACCES, str(error))
        except OSError as error:
            return OSError(error.errno, f"pooled maps cannot be written to {place}: {error.strerror or error}")

    def failed(self, folder: Path, error: OSError) -> None:
        """Remember for a while that what was begun in a folder could not be written on."""
        self._failed[folder] = time.monotonic(), error

    def _check(self, folder: Path) -> None:
        when, error = self._failed.get(folder, (0.0, None))
        if error is not None and time.monotonic() - when < FORGOTTEN:
            raise error

    def forget(self, file: PyramidFile) -> None:
        """Take away a file that is damaged."""
        with suppress(OSError):
            file.path.unlink()


class _Temporary:
    """A folder that lasts as long as this does."""

    @cached_property
    def _path(self) -> Path:
        path = tempfile.mkdtemp(prefix="pellucid-")
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        return Path(path)

    def __call__(self) -> Path:
        return self._path


def store_of(record: Record) -> Store:
    """Where the maps of a record are kept."""
    if not isinstance(record, StoredRecord):
        return Store([_Temporary()])
    path = record.path.resolve()
    own = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    return Store([lambda: path / MAPS, lambda: kernels.directory() / "maps" / own])


def name_of(told: dict[str, Any]) -> str:
    """The name of the file that says this of itself."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode("ascii")).hexdigest()[:32] + ENDING


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=folder.name != MAPS, exist_ok=True)
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "is a link")


def _make_room(folder: Path, needed: int) -> None:
    """Remove the files that were used longest ago until so many bytes more fit. Raises OSError."""
    held = sorted((one for one in map(_looked_at, folder.iterdir()) if one is not None), reverse=True)
    total = sum(size for _, size, _ in held)
    while held and total + needed > LARGEST:
        _, size, path = held.pop()
        with suppress(OSError):
            path.unlink()
        total -= size
    if needed > LARGEST or shutil.disk_usage(folder).free < needed + SPARED:
        raise OSError(errno.ENOSPC, f"{needed >> 20} MiB for a pooled map do not fit on the disk")


def _looked_at(path: Path) -> tuple[float, int, Path] | None:
    """When a file of maps was used last, and its bytes; one that nobody goes on with is removed."""
    is_unfinished = path.name.endswith(UNFINISHED)
    try:
        state = path.lstat()
        if is_unfinished and time.time() - state.st_mtime > ABANDONED:
            path.unlink()
            return None
    except OSError:
        return None
    taken = getattr(state, "st_blocks", state.st_size // 512) * 512
    return (state.st_mtime, taken, path) if is_unfinished or path.name.endswith(ENDING) else None

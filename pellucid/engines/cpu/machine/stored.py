"""Compiled kernels on disk, where nobody else can have written what this process will run.

The folder and each file are the user's own, and neither the group nor others may write to them; nothing is reached
through a link that somebody else could have laid. Whatever is otherwise is as good as not there: kernels are then
compiled in each process anew, and `pellucid doctor` says why. Where the system knows no users (Windows), that it is the
user's own folder is all that can be said.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 512 << 20  # of all kernels on disk; beyond, those go that were not used for longest
WRITES_A_LOOK = 64  # kernels that a process writes between two looks at how much there is
MOST_STEPS = 256  # folders and links on the way to the folder
ABANDONED = 3600.0  # seconds after which nobody will finish a file
OTHERS = stat.S_IWGRP | stat.S_IWOTH
FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
HAS_USERS = hasattr(os, "geteuid")
KERNEL = re.compile(r"\w+-[0-9a-f]{32}\.o")
UNFINISHED = ".new-"
_writes = itertools.count()


@dataclass(frozen=True)
class Folder:
    """The folder, open: what is done in it is not done in another that takes its place."""

    path: Path
    descriptor: int | None  # None where the system opens no folders

    def at(self, name: str) -> str:
        """What a file is called beside `dir_fd=self.descriptor`."""
        return str(self.path / name) if self.descriptor is None else name

    def open(self, name: str, flags: int) -> int:
        """A descriptor of a file, links not followed."""
        return os.open(self.at(name), flags | FLAGS, 0o600, dir_fd=self.descriptor)


class UnusableError(Exception):
    """Why no kernel is kept; the message says which folder is to blame."""


def directory() -> Path:
    """Where kernels are kept: $PELLUCID_CACHE, or `pellucid` in the user's cache directory.

    Raises:
        UnusableError: it would depend on the current directory, or the user has no home.

    """
    own, base = os.environ.get("PELLUCID_CACHE"), Path(os.environ.get("XDG_CACHE_HOME") or "")
    if own:
        return _absolute("PELLUCID_CACHE", Path(own))
    if base.is_absolute():  # others are to be ignored, says the XDG specification
        return base / "pellucid"
    try:
        return _absolute("HOME", Path("~").expanduser()) / ".cache" / "pellucid"
    except RuntimeError:
        raise UnusableError("the user has no home; name a folder in PELLUCID_CACHE") from None


def read(name: str) -> bytes | None:
    """The kernel that was written by this name; None if it is not there, damaged, or may be somebody else's."""
    try:
        with _opened() as folder, os.fdopen(folder.open(name, os.O_RDONLY), "rb") as file:
            _check_own(os.fstat(file.fileno()), name)
            content = file.read()
            with suppress(OSError):
                os.utime(file.fileno() if os.utime in os.supports_fd else folder.at(name))  # it was used
    except (OSError, UnusableError):
        return None
    checksum, code = content[:32], content[32:]
    return code if code and _checksum(name, code) == checksum else None


def write(name: str, code: bytes) -> None:
    """Keep a kernel, if that can be done.

    It goes into a file of its own first: another process reads all of it or nothing.
    """
    with suppress(OSError, UnusableError), _opened(create=True) as folder:
        _put(folder, name, _checksum(name, code) + code)
        if next(_writes) % WRITES_A_LOOK == 0:
            _forget_oldest(folder)


def state() -> str:
    """Where kernels are kept and how many there are, or why none is."""
    try:
        with _opened(create=True) as folder:
            sizes = [size for _, size, name in _files(folder) if KERNEL.fullmatch(name)]
            return f"{folder.path}, {len(sizes)} kernels, {sum(sizes) / 1e6:.1f} MB"
    except (OSError, UnusableError) as error:
        return f"not used: {error}"


@contextmanager
def _opened(create: bool = False) -> Iterator[Folder]:
    """The folder, if what lies in it can be the user's alone. Raises UnusableError if not, OSError."""
    path = directory()
    if create:
        for place in (*reversed(path.parents), path):
            if not place.is_dir():
                place.mkdir(0o700)
    if not HAS_USERS:
        yield Folder(path, None)
        return
    for place in _way_to(path.parent):
        _check_way(os.lstat(place), place)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | FLAGS)
    try:
        _check_own(os.fstat(descriptor), path)
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


def _way_to(path: Path) -> Iterator[Path]:
    """Every folder and link that the system passes when it opens a path."""
    place, left = Path(path.anchor), list(reversed(path.parts[1:]))
    yield place
    for _ in range(MOST_STEPS):
        if not left:
            return
        part = left.pop()
        step = place.parent if part == ".." else place / part
        yield step
        if step.is_symlink():
            target = step.readlink()
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            place = Path(target.anchor) if target.is_absolute() else place
        else:
            place = step
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _check_way(found: os.stat_result, place: Path) -> None:
    """Raise UnusableError if others than the user and root could put another folder behind this one."""
    if found.st_uid not in (0, os.geteuid()):
        raise UnusableError(f"{place} belongs to user {found.st_uid}, who could exchange what is in it")
    if stat.S_ISDIR(found.st_mode) and found.st_mode & OTHERS and not found.st_mode & stat.S_ISVTX:
        raise UnusableError(f"{place} can be written to by others; take that from them with chmod go-w")


def _check_own(found: os.stat_result, place: Path | str) -> None:
    """Raise UnusableError unless it is the user's, and nobody else may write to it."""
    if not HAS_USERS:
        return
    if found.st_uid != os.geteuid():
        raise UnusableError(f"{place} belongs to user {found.st_uid}, and this process to user {os.geteuid()}")
    if found.st_mode & OTHERS:
        raise UnusableError(f"{place} can be written to by others; take that from them with chmod go-w")


def _absolute(variable: str, path: Path) -> Path:
    if not path.is_absolute():
        raise UnusableError(f"{variable}: an absolute path is needed, got {str(path)!r}")
    return path


def _checksum(name: str, code: bytes) -> bytes:
    """Of the name as well: a file that was given another's name is not that other."""
    return hashlib.sha256(name.encode() + b"\0" + code).digest()


def _put(folder: Folder, name: str, content: bytes) -> None:
    temporary = f"{UNFINISHED}{secrets.token_hex(8)}"
    descriptor = folder.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        place = {"src_dir_fd": folder.descriptor, "dst_dir_fd": folder.descriptor}
        os.replace(folder.at(temporary), folder.at(name), **place)
    except BaseException:
        with suppress(OSError):
            os.unlink(folder.at(temporary), dir_fd=folder.descriptor)
        raise


def _files(folder: Folder) -> list[tuple[float, int, str]]:
    """When each was last used, its size and its name, the oldest first."""
    found = []
    with os.scandir(folder.path if folder.descriptor is None else folder.descriptor) as entries:
        for entry in entries:
            with suppress(OSError):  # another process took it away
                about = entry.stat(follow_symlinks=False)
                found.append((about.st_mtime, about.st_size, entry.name))
    return sorted(found)


def _forget_oldest(folder: Folder) -> None:
    """Take away the kernels that were not used for longest, beyond MOST_BYTES, and files that nobody will finish."""
    files = _files(folder)
    beyond = sum(size for _, size, name in files if KERNEL.fullmatch(name)) - MOST_BYTES
    for used, size, name in files:
        too_many = beyond > 0 and KERNEL.fullmatch(name) is not None
        if too_many or (name.startswith(UNFINISHED) and used < time.time() - ABANDONED):
            beyond -= size if too_many else 0
            with suppress(OSError):
                os.unlink(folder.at(name), dir_fd=folder.descriptor)

"""One writer of a folder at a time: a lock of the system on the folder itself, which ends with who holds it.

Nothing is left in the folder, and a process that is killed leaves no lock behind. Systems without `fcntl` (Windows)
and file systems without locks have none: there two writers do not notice one another.
"""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]


class LockedError(OSError):
    """Somebody else writes to the folder."""


class FolderLock:
    """The right to write to a folder that is there, until `release`, or until nobody knows of this lock any more.

    A process that is forked off has not the right, and does not prolong it.

    Raises:
        LockedError: another writer has it, in this process or in another.
        OSError: there is no such folder.

    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        self._process = os.getpid()
        if fcntl is None:  # pragma: no cover
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LockedError("it is being written by another writer") from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return
        self._descriptor = descriptor
        _HELD.add(self)
        self._end = weakref.finalize(self, _close, descriptor, self._process)

    @property
    def is_own(self) -> bool:
        """Whether the process that took it asks."""
        return self._process == os.getpid()

    @property
    def is_of_nothing(self) -> bool:
        """Whether the folder was removed before it was locked."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0

    def release(self) -> None:
        """Let others write."""
        if self._descriptor is not None and self.is_own:
            self._end()
        self._descriptor = None


def is_locked(folder: Path) -> bool:
    """Whether somebody writes to a folder. A writer that begins in the very moment of the question is turned away."""
    if fcntl is None:  # pragma: no cover
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


_HELD: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _close(descriptor: int, process: int) -> None:
    if process == os.getpid():
        os.close(descriptor)


def _forget() -> None:
    """In a process that was forked off: close what was locked, or it would stay so as long as that process lives."""
    for lock in list(_HELD):
        if lock._descriptor is not None:
            with suppress(OSError):
                os.close(lock._descriptor)
        lock._descriptor = None


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget)

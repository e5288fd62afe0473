"""The peak of a process's memory while something runs, from Linux's own account of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MB = 2**20


class Peak:
    """What was added, in bytes."""

    added = 0


@contextmanager
def peak() -> Iterator[Peak]:
    """Gives an object that afterwards knows by how much memory grew at its highest.

    Raises:
        OSError: the system has no such account; only Linux does.

    """
    measured = Peak()
    CLEAR.write_text("5", encoding="ascii")  # from here on, a new highest point
    before = _resident("VmRSS")
    yield measured
    measured.added = _resident("VmHWM") - before


def _resident(name: str) -> int:
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

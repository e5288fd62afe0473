"""Ctrl-C while modules load: the process ends at once and quietly."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType


@contextmanager
def ending_quietly() -> Iterator[None]:
    """End the process on Ctrl-C inside the `with`: nothing is open yet, and some modules swallow exceptions.

    Where somebody has it ignored, or handles it otherwise, that stays.
    """
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or current_thread() is not main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\npellucid: interrupted\n")
    os._exit(130)

"""Children of the test's own process, with all that is in its memory."""

from __future__ import annotations

import os
import time
import traceback
import warnings
from collections.abc import Callable

import torch._dynamo  # noqa: F401  (which torch would load in each child that differentiates)


def forked(work: Callable[[], bool]) -> int:
    """The process id of a child that does the work; its exit code is 0 if that gave True."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is the point
        number = os.fork()
    if number:
        return number
    code = 1
    try:
        code = 0 if work() else 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(number: int, seconds: float = 60.0) -> int | None:
    """The child's exit code, or None (and an end to it) if it does not end in time."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(number, 9)
    os.waitpid(number, 0)
    return None

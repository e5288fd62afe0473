"""What the command `pellucid` starts. It lies beside the package, to end quietly on Ctrl-C while the package loads."""

from __future__ import annotations

import os
import signal
from typing import Any


def main() -> int:
    """Run `pellucid.cli.main` and return its exit status."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # else somebody has it ignored
        signal.signal(signal.SIGINT, _leave)
    from pellucid.cli import main as run

    signal.signal(signal.SIGINT, usual)
    return run()


def _leave(number: int, frame: Any) -> None:
    """End at once: nothing is open yet, and an exception is swallowed by some of what is imported."""
    os.write(2, b"\npellucid: interrupted\n")
    os._exit(130)

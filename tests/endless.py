"""What ends whatever it is handed: a test that would wait for ever fails instead. Speed is for benchmarks."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 60  # seconds of the processor, of which a test takes one or two on a slow machine


@contextmanager
def ends() -> Iterator[None]:
    """What is inside is stopped, and the test fails, once it has computed for LONGEST."""

    def stop(*_):
        raise AssertionError(f"this has computed for {LONGEST} seconds and would not end")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)

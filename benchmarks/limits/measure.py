"""The machine's limits, measured before anything else on the same number of threads."""

from __future__ import annotations

from benchmarks.limits import DOT, FLOAT32, FLOAT64, MEMORY, TILES, Limits, amx, bandwidth, peak
from benchmarks.measuring.machine import last_cache_bytes

SIZES = tuple(2**power for power in (20, 22, 24, 26, 28))  # bytes
LEAST_MEMORY, MOST_MEMORY = 2**28, 2**31
PASSES = 3


def measure(workers: int) -> Limits:
    """All of them, in about six seconds, and as much memory as twice the last cache.

    The best of passes one after another: what shares the machine may hold a core for longer than one takes.
    """
    cache = last_cache_bytes()
    largest = min(MOST_MEMORY, max(LEAST_MEMORY, 2 * (cache or 0)))
    sizes = [*(size for size in SIZES if size < largest), largest]
    passes = [(_peaks(workers), bandwidth.read(sizes, workers)) for _ in range(PASSES)]
    peaks = {name: max(peaks[name] for peaks, _ in passes) for name in passes[0][0]}
    read = {size: max(read[size] for _, read in passes) for size in sizes}
    return Limits(peaks | {MEMORY: read[largest]}, read, cache)


def _peaks(workers: int) -> dict[str, float]:
    """Operations a second of those instructions that there are."""
    peaks = {
        FLOAT32: peak.float32(workers),
        FLOAT64: peak.float64(workers),
        DOT: peak.bfloat16_dot(workers),
        TILES: amx.bfloat16(workers),
    }
    return {name: value for name, value in peaks.items() if value is not None}

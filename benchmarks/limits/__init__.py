"""What the machine itself can do, measured before anything else on the same number of threads."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.limits import amx, bandwidth, peak
from benchmarks.machine import last_cache_bytes
from benchmarks.results import Limit

FLOAT32, FLOAT64 = "float32 multiply-add", "float64 multiply-add"
DOT, TILES = "bfloat16 dot product", "bfloat16 tiles (AMX)"
MEMORY = "memory read"
SIZES = tuple(2**power for power in (20, 22, 24, 26, 28))  # bytes
LEAST_MEMORY, MOST_MEMORY = 2**28, 2**31
PASSES = 3


@dataclass(frozen=True)
class Limits:
    """Operations or bytes a second, by name, and bytes a second by the size of what is read."""

    per_second: dict[str, float]
    read_by_size: dict[int, float]
    last_cache: int | None  # bytes

    def of(self, name: str) -> Limit | None:
        """One limit; None where the machine has none of that name."""
        return Limit(name, self.per_second[name]) if name in self.per_second else None

    def fits(self, size: float) -> bool:
        """Whether so many bytes lie in the last cache when they are read again and again."""
        return self.last_cache is not None and size <= self.last_cache

    def at_size(self, size: float) -> float:
        """Bytes a second of the smallest measured buffer that is no smaller, else of the largest."""
        return self.read_by_size[min((s for s in self.read_by_size if s >= size), default=max(self.read_by_size))]


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

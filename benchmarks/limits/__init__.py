"""What the machine itself can do: what limits are called, and what they came to.

Rows name them, also where the package of another checkout runs, so nothing of the package is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.results import Limit

FLOAT32, FLOAT64 = "float32 multiply-add", "float64 multiply-add"
DOT, TILES = "bfloat16 dot product", "bfloat16 tiles (AMX)"
MEMORY = "memory read"
# What products in a dtype reach in the fastest of these ways that there are, of which a part of the operations counts.
PRODUCTS = {
    "float32 products": {FLOAT32: 1.0, TILES: 1 / 6},  # in three parts each, six products of which are enough
    "bfloat16 products": {FLOAT32: 1.0, DOT: 1.0, TILES: 1.0},
}


@dataclass(frozen=True)
class Limits:
    """Operations or bytes a second, by name, and bytes a second by the size of what is read."""

    per_second: dict[str, float]
    read_by_size: dict[int, float]
    last_cache: int | None  # bytes

    def of(self, name: str) -> Limit | None:
        """One limit; None where the machine has none of that name."""
        ways = PRODUCTS.get(name, {name: 1.0})
        reached = [self.per_second[way] * part for way, part in ways.items() if way in self.per_second]
        return Limit(name, max(reached)) if reached else None

    def fits(self, size: float) -> bool:
        """Whether so many bytes lie in the last cache when they are read again and again."""
        return self.last_cache is not None and size <= self.last_cache

    def at_size(self, size: float) -> float:
        """Bytes a second of the smallest measured buffer that is no smaller, else of the largest."""
        return self.read_by_size[min((s for s in self.read_by_size if s >= size), default=max(self.read_by_size))]

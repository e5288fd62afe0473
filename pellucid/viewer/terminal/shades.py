"""How a weight becomes a shade: a colour of the viridis map, or one of five characters where there is no colour."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

# Every sixteenth colour of matplotlib's viridis (CC0): perceptually uniform, safe for colour-blind readers, and with
# a dark end and a bright end that both stand out from a black and from a white terminal.
_VIRIDIS = (
    *("#440154", "#48186a", "#472d7b", "#424086", "#3b528b", "#33638d", "#2c728e", "#26828e", "#21918c"),
    *("#1fa088", "#28ae80", "#3fbc73", "#5ec962", "#84d44b", "#addc30", "#d8e219", "#fde725"),
)
_ANCHORS = tuple((int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)) for colour in _VIRIDIS)

BLOCKS = "·░▒▓█"
ASCII = ".:+*#"


def viridis(fraction: float) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of the map at `fraction`, which is clamped to 0..1."""
    place = min(max(fraction, 0.0), 1.0) * (len(_ANCHORS) - 1)
    index = min(int(place), len(_ANCHORS) - 2)
    start, end = list(pairwise(_ANCHORS))[index]
    red, green, blue = (round(a + (b - a) * (place - index)) for a, b in zip(start, end, strict=True))
    return red, green, blue


@dataclass(frozen=True)
class Shading:
    """A scale from 0 to `top`, shared by every cell of one map."""

    top: float
    characters: str = BLOCKS

    def fraction(self, weight: float) -> float:
        """Where the weight lies between 0 and the top of the scale."""
        return min(max(weight / self.top, 0.0), 1.0) if self.top > 0 else 0.0

    def cell(self, weight: float) -> str:
        """Two columns of the character nearest to the weight; a weight of exactly 0 leaves them blank."""
        return "  " if weight == 0 else self._cell(round(self.fraction(weight) * (len(self.characters) - 1)))

    def background(self, weight: float) -> str:
        """The colour of the weight as `#rrggbb`."""
        red, green, blue = viridis(self.fraction(weight))
        return f"#{red:02x}{green:02x}{blue:02x}"

    def levels(self) -> list[tuple[str, float]]:
        """Each kind of cell with the weight it stands for exactly."""
        steps = len(self.characters) - 1
        return [(self._cell(step), self.top * step / steps) for step in range(steps + 1)]

    def _cell(self, step: int) -> str:
        # The faintest is a single dot: enough to follow a row or a column by, and no more.
        return self.characters[step] + (self.characters[step] if step else " ")

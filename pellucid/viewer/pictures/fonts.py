"""Which installed fonts can draw a text in a picture; what none of them has is written as its code point."""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

BASE = "DejaVu Sans"  # comes with matplotlib
PLACEHOLDERS = "Last Resort"  # so does this one: a sign of its script for every character, which nobody can read
NORMAL = 400  # weight


class Lettering:
    """The font families that draw `texts` between them, the first that has a character drawing it."""

    def __init__(self, texts: Iterable[str]) -> None:
        missing = {character for text in texts for character in text} - _characters(_path(BASE))
        self.families = [BASE]
        for family in _families() if missing else ():
            if found := missing & _characters(_path(family)):
                self.families.append(family)
                missing -= found
            if not missing:
                break
        self.missing = frozenset(missing)

    def spell(self, text: str) -> str:
        """The text with every character that no font has written as U+6708, and no formula in it."""
        spelled = "".join(f"U+{ord(c):04X}" if c in self.missing else c for c in text)
        return spelled.replace("$", r"\$")  # a pair of them begins and ends what matplotlib would set as mathematics


def _families() -> list[str]:
    """Installed families with an upright face of normal weight, those made to cover many scripts first."""
    entries = font_manager.fontManager.ttflist
    upright = {entry.name for entry in entries if entry.style == "normal" and entry.weight == NORMAL}
    names = {name for name in upright if name != BASE and not name.startswith(PLACEHOLDERS)}
    return sorted(names, key=lambda name: (not name.startswith("Noto Sans"), "Sans" not in name, len(name), name))


def _path(family: str) -> str:
    # In a list: a bare name is parsed as a fontconfig pattern, where a hyphen begins a size.
    return str(font_manager.findfont(font_manager.FontProperties(family=[family])))


@cache
def _characters(path: str) -> Set[str]:
    """What a font can draw at any size; bitmap fonts, such as coloured emoji, cannot."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()

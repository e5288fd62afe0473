"""Which installed fonts can draw a text in a picture; what none of them has is written as its code point."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

BASE = "DejaVu Sans"  # comes with matplotlib
PLACEHOLDERS = "Last Resort"  # so does this one: a sign of its script for every character, which nobody can read
NORMAL = 400  # weight


# Packages of Debian and Ubuntu that have the characters between two code points; others are in the last.
PACKAGES = (
    (0x2E80, 0xA4CF, "fonts-noto-cjk"), (0xAC00, 0xD7FF, "fonts-noto-cjk"), (0xF900, 0xFAFF, "fonts-noto-cjk"),
    (0xFF00, 0xFFEF, "fonts-noto-cjk"), (0x20000, 0x3FFFF, "fonts-noto-cjk"), (0x2190, 0x2BFF, "fonts-symbola"),
    (0x1F000, 0x1FBFF, "fonts-symbola"),
)  # fmt: skip
OTHERS = "fonts-noto-core"
NAMED = 8  # characters of a message


class Lettering:
    """The font families that draw `texts` between them, the first that has a character drawing it.

    Args:
        texts: what will be written.
        as_text: whether it stays text, and is drawn by the fonts of whoever looks at it.

    """

    def __init__(self, texts: Iterable[str], *, as_text: bool = False) -> None:
        missing = {character for text in texts for character in text} - _characters(_path(BASE))
        self.families = [BASE]
        for family in _found_by(missing):
            if found := missing & _characters(_path(family)):
                self.families.append(family)
                missing -= found
            if not missing:
                break
        self.missing = frozenset(missing)
        self.as_text = as_text

    def spell(self, text: str) -> str:
        """The text with every character that no font has written as U+6708, and no formula in it."""
        absent = frozenset() if self.as_text else self.missing
        spelled = "".join(f"U+{ord(c):04X}" if c in absent else c for c in text)
        return spelled.replace("$", r"\$")  # a pair of them begins and ends what matplotlib would set as mathematics

    def warn(self) -> None:
        """Say which package has the characters that are spelled, if any are; once for the same ones."""
        if not self.missing or self.as_text:
            return
        shown = sorted(self.missing)
        few = " ".join(shown[:NAMED]) + (" ..." if len(shown) > NAMED else "")
        packages = " and ".join(sorted({_package(character) for character in shown}))
        warnings.warn(
            f"no installed font has {few}, so their numbers are drawn; install {packages} (Debian, Ubuntu) or another "
            "font that has them, or save as .svg, where text stays text",
            stacklevel=3,
        )


def _package(character: str) -> str:
    return next((name for first, last, name in PACKAGES if first <= ord(character) <= last), OTHERS)


def _found_by(missing: Set[str]) -> Iterator[str]:
    """Families to look for characters in; last, those that were installed since matplotlib looked."""
    if missing:
        yield from _families()
    if missing:
        known = set(_families())
        _add_installed()
        yield from (family for family in _families() if family not in known)


@cache
def _add_installed() -> None:
    """Tell matplotlib of fonts that are newer than its list, which it keeps from run to run."""
    known = {os.path.realpath(entry.fname) for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if os.path.realpath(path) not in known:
            with suppress(OSError, RuntimeError):  # no font after all
                font_manager.fontManager.addfont(path)


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

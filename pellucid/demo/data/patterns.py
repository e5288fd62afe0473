"""Date patterns: CLDR's notation, split once into parts that are then filled in for each date.

`d MMMM y` is CLDR's own; names in braces are ours, for what CLDR has no letter for:
`{ordinal}` is "3rd", `{words}` "third", `{month words}` and `{year words}` numbers spelled out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = re.compile(r"\{([a-z ]+)\}|''|'([^']*)'|([A-Za-z])\3*|[^A-Za-z'{]+")

_FIELD_OF_LETTER = {"y": "year", "M": "month", "L": "month", "d": "day", "E": "weekday", "c": "weekday"}
_FIELD_OF_BRACES = {"ordinal": "day", "words": "day", "month words": "month", "year words": "year"}


@dataclass(frozen=True)
class Part:
    """A piece of a pattern: literal text (field "literal") or a field and the way to write it."""

    field: str
    form: str


Pattern = tuple[Part, ...]


def compile_pattern(pattern: str) -> Pattern:
    """The parts of a pattern in CLDR notation.

    >>> [part.form for part in compile_pattern("d MMM ''yy")]
    ['d', ' ', 'MMM', ' ', "'", 'yy']

    Raises:
        ValueError: a letter or a name in braces that stands for no part of a date.
    """
    parts = []
    position = 0
    while position < len(pattern):
        match = _PART.match(pattern, position)
        if match is None:
            raise ValueError(
                f"pattern: {pattern!r} cannot be read from character {position} on; close its quote or brace"
            )
        parts.append(_part(pattern, match))
        position = match.end()
    return tuple(parts)


def is_numeric(pattern: Pattern) -> bool:
    """Whether the pattern writes the month as a number, with no name and no unit that would tell the fields apart."""
    months = [part.form for part in pattern if part.field == "month"]
    units = any(character.isalpha() for part in pattern if part.field == "literal" for character in part.form)
    return months in (["M"], ["MM"], ["L"], ["LL"]) and not units


def field_order(pattern: Pattern) -> tuple[str, ...]:
    """Day, month and year in the order in which the pattern writes them."""
    return tuple(part.field for part in pattern if part.field in ("day", "month", "year"))


def _part(pattern: str, match: re.Match[str]) -> Part:
    braces, quoted, letter = match.groups()
    form = match.group()
    if braces is not None:
        if braces not in _FIELD_OF_BRACES:
            raise ValueError(f"pattern: {pattern!r} has {{{braces}}}, known are {sorted(_FIELD_OF_BRACES)}")
        return Part(_FIELD_OF_BRACES[braces], braces)
    if letter is not None:
        if letter not in _FIELD_OF_LETTER:
            raise ValueError(f"pattern: {pattern!r} has {form!r}, known letters are {sorted(_FIELD_OF_LETTER)}")
        return Part(_FIELD_OF_LETTER[letter], form)
    return Part("literal", "'" if form == "''" else quoted if quoted is not None else form)

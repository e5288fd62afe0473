"""What a value read from JSON must be: kinds put together like the data that they describe.

A kind is a function of a value and of the field that it stands in; it raises ValueError, which names the field, the
rule and what is there. Fields that a kind does not know are passed over, for a later version may write them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from pellucid import legible

Kind = Callable[[Any, str], None]

INT64 = 1 << 63
LARGEST = 1 << 40  # of a size or position: what no tensor has, and no product of a few of them overflows Python


def anything(value: Any, field: str) -> None:
    """Whatever it is; somebody else looks into it."""


def number(value: Any, field: str) -> None:
    """A finite number."""
    is_number = isinstance(value, float) or (type(value) is int and -INT64 <= value < INT64)
    _check(is_number and math.isfinite(value), field, "a finite number", value)


def flag(value: Any, field: str) -> None:
    """True or false."""
    _check(isinstance(value, bool), field, "true or false", value)


def text(value: Any, field: str) -> None:
    """Any text; a token may hold lone surrogates."""
    _check(isinstance(value, str), field, "text", value)


def name(value: Any, field: str) -> None:
    """A text that has an encoding, so that a file can hold it."""
    _check(isinstance(value, str) and legible.encodable(value) == value, field, "valid text", value)


def identifier(value: Any, field: str) -> None:
    """What Python takes for the name of a type or of one of its fields."""
    fits = isinstance(value, str) and len(value) < 100 and value.isidentifier()
    _check(fits, field, "an identifier", value)


def whole(least: int = 0, most: int = LARGEST) -> Kind:
    """A whole number within limits, both inclusive."""

    def check(value: Any, field: str) -> None:
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        _check(fits, field, f"a whole number from {least} to {most}", value)

    return check


def one_of(*known: str) -> Kind:
    """One of some texts."""

    def check(value: Any, field: str) -> None:
        _check(isinstance(value, str) and value in known, field, f"one of {', '.join(known)}", value)

    return check


def matching(pattern: str, words: str) -> Kind:
    """A text that a pattern fits; `words` say which."""

    def check(value: Any, field: str) -> None:
        _check(isinstance(value, str) and re.fullmatch(pattern, value) is not None, field, words, value)

    return check


def nullable(kind: Kind) -> Kind:
    """What `kind` takes, or null."""

    def check(value: Any, field: str) -> None:
        if value is not None:
            kind(value, field)

    return check


def list_of(kind: Kind, least: int = 0) -> Kind:
    """A list of at least some values of one kind."""

    def check(value: Any, field: str) -> None:
        _check(isinstance(value, list | tuple) and len(value) >= least, field, f"a list of {least} or more", value)
        for place, one in enumerate(value):
            kind(one, f"{field}[{place}]")

    return check


def map_of(kind: Kind) -> Kind:
    """An object that has values of one kind by any names."""

    def check(value: Any, field: str) -> None:
        _check(isinstance(value, Mapping), field, "an object", value)
        for key, one in value.items():
            name(key, f"a name in {field}")
            kind(one, f"{field}.{legible.name(key)}")

    return check


def fields(needed: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> Kind:
    """An object with these fields; of the optional ones, those that it has."""
    known = {**needed, **(optional or {})}

    def check(value: Any, field: str) -> None:
        _check(isinstance(value, Mapping), field or "it", "an object", value)
        missing = [repr(key) for key in needed if key not in value]
        if missing:
            raise ValueError(f"{field or 'it'} holds no {', '.join(missing)}")
        for key, kind in known.items():
            if key in value:
                kind(value[key], f"{field}.{key}" if field else key)

    return check


def _check(fits: bool, field: str, rule: str, value: Any) -> None:
    if not fits:
        raise ValueError(f"{field} must be {rule}, got {legible.quoted(value)}")

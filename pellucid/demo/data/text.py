"""The text that the demo reads, made regular: what the model sees and what the held-out split compares."""

from __future__ import annotations

import unicodedata


def normalise(text: str) -> str:
    """The text in NFC, no invisible format characters, each run of white space or controls one space, ends trimmed.

    >>> normalise("  3\\u202fmars\\t1997\\u200f ")
    '3 mars 1997'
    """
    visible = (_space_for_control(character) for character in unicodedata.normalize("NFC", text))
    return " ".join("".join(visible).split())


def without_marks(text: str, marks: str) -> str:
    """The text without these combining marks, as people type it who have no key for them."""
    letters = (character for character in unicodedata.normalize("NFD", text) if character not in marks)
    return unicodedata.normalize("NFC", "".join(letters))


def fold(text: str) -> str:
    """The text with case, accents, width of digits and spaces set aside: what two spellings of one string share."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if character.isalnum() or character in "-./,'")


def _space_for_control(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return " " if category in ("Cc", "Cs", "Co", "Cn") else character

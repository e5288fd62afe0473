"""Text of others as it may be shown: tokens, names and messages that come from a file, a model or a command line.

Whatever is printed goes through here, so that no name can end a line, turn it round, hide, or command the terminal.
"""

from __future__ import annotations

import re
import unicodedata

SPACE = "␣"
UNSHOWN = "�"  # a character that has no picture of its own: format controls, unassigned code points, lone surrogates
_KEPT = re.compile("[^\n\u200e]+")
LONGEST_NAME = 120  # of a name in a message
LONGEST_MESSAGE = 2_000


def visible(character: str) -> str:
    """The character, or a picture of it where it has none: ␛ for an escape, ␣ for any space."""
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures ␀ ␁ … ␟
    if code == 0x7F:
        return "␡"
    match unicodedata.category(character):
        case "Zs":
            return SPACE
        case "Cc" | "Cf" | "Cn" | "Co" | "Cs" | "Zl" | "Zp":
            return UNSHOWN
        case _:
            return character


def one_line(text: str) -> str:
    """The text as it reads, but for what could end the line, reorder it or command the terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_harmless(character) else visible(character) for character in text)


def lines(text: str) -> str:
    """The same of a text that may have several lines, and labels that are kept from left to right."""
    return _KEPT.sub(lambda found: one_line(found[0]), text)


def message(text: str) -> str:
    """A message in which there may be names of others: one line, its middle left out where it is very long."""
    return cut(one_line(text), LONGEST_MESSAGE)


def name(text: object) -> str:
    """A name of others within a message: one line, of a length that leaves the message readable."""
    return cut(one_line(str(text)), LONGEST_NAME)


def quoted(value: object) -> str:
    """A value of others within a message, as Python writes it; of a long one the beginning alone is looked at."""
    if isinstance(value, str):
        return name(repr(value[: LONGEST_NAME + 1]))
    if isinstance(value, list | tuple | dict):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 100:
        return "a number of more than 30 digits"
    return name(repr(value))


def cut(text: str, limit: int) -> str:
    """The text in at most `limit` characters, … in place of its middle."""
    if len(text) <= limit:
        return text
    before = (limit - 1) // 2
    return f"{text[:before]}…{text[len(text) - (limit - 1 - before) :]}"


def several(count: int, what: str) -> str:
    """A count and what is counted: "1 document", "2,000 documents"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def encodable(text: str) -> str:
    r"""The text as every encoding of Unicode can hold it: a lone surrogate is written out, as \udcff."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_harmless(character: str) -> bool:
    if character == " ":
        return True
    joins_letters = unicodedata.category(character) == "Cf" and unicodedata.bidirectional(character) == "BN"
    return joins_letters and ord(character) < 0xE0000  # beyond are tags: a text that nobody sees

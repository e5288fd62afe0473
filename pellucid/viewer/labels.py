"""The label of one token on an axis: visible, on one line, harmless to the terminal, and of known width.

Tokens are whatever a model reads: spaces, control characters, single Devanagari vowel signs, Arabic letters. None of
them may move the rest of a line, so every token becomes a label first and only labels are drawn.
"""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size

from pellucid.legible import SPACE, one_line, visible

DOTTED_CIRCLE = "◌"  # what Unicode's charts put a combining mark on
LEFT_TO_RIGHT_MARK = "\u200e"

_RIGHT_TO_LEFT = {"R", "AL", "AN"}


def axis_label(token: str) -> str:
    """The token as an axis shows it: spaces as ␣, control characters as their pictures, lone marks on a dotted circle.

    A label with right-to-left letters ends in a left-to-right mark: a terminal that reorders text would otherwise
    take the neighbouring labels of an Arabic axis for one phrase and turn their order round.
    """
    label = "".join(visible(character) for character in token) or "∅"
    if unicodedata.combining(label[0]) or unicodedata.category(label[0]).startswith("M"):
        label = DOTTED_CIRCLE + label
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in label):
        label += LEFT_TO_RIGHT_MARK
    return label


def ascii_label(token: str) -> str:
    """The label for an output that holds ASCII only: _ for a space, ? for every other character it has not."""
    label = "".join(visible(character) for character in token)
    return label.replace(SPACE, "_").encode("ascii", "replace").decode("ascii") or "?"


def shorten(text: str, limit: int) -> str:
    """The text, cut to `limit` characters with an ellipsis where it is longer."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def cut_middle(name: str, limit: int) -> str:
    """A module's dotted name in at most `limit` characters: its first part and its end, which tell it from others."""
    name = one_line(name)
    if len(name) <= limit:
        return name
    first = name.split(".", 1)[0][: limit // 3]
    return f"{first}…{name[len(name) - (limit - len(first) - 1) :]}"


def fit(label: str, width: int, *, right: bool = False) -> str:
    """The label in exactly `width` columns of a terminal, cut with an ellipsis or filled with spaces."""
    if cell_len(label) > width:
        label = set_cell_size(label, max(width - 1, 0)) + "…"
    filler = " " * (width - cell_len(label))
    return filler + label if right else label + filler


def width_is_certain(label: str) -> bool:
    """Whether all terminals agree on the label's width: they do not on letters joined with spacing marks."""
    return not any(unicodedata.category(character) == "Mc" for character in label)

"""An attention map in a terminal: a row a query, a column a key, a shade a weight, tokens on both axes.

With colours a cell is a background of the viridis map; without, one of five block characters; where not even those
can be written, an ASCII character. A map wider than the terminal is folded into panels of keys, one below the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.segment import Segment
from rich.style import Style

from pellucid.viewer.labels import ascii_label, axis_label, fit, width_is_certain
from pellucid.viewer.terminal.shades import ASCII, BLOCKS, Shading

CELL = 2  # columns: a square in most fonts, and room for a Chinese character
GUTTER = 1  # columns between the query labels and the map
LONGEST_LABEL = 12  # columns for query labels, lines for key labels
COLOURS_NEEDED = ("256", "truecolor")  # sixteen colours are too few for a scale

Line = list[Segment]


@dataclass(frozen=True)
class AttentionMap:
    """Weights [queries, keys] with the tokens of both axes, drawn on one scale from 0 to the largest weight."""

    weights: Sequence[Sequence[float]]
    queries: Sequence[str]
    keys: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the panels from left to right, then the legend."""
        ink = _Ink.of(console, self._top())
        queries = [ink.label(token) for token in self.queries]
        keys = [ink.label(token) for token in self.keys]
        margin = min(max(map(cell_len, queries), default=0), LONGEST_LABEL) + GUTTER
        for panel in _panels(len(keys), (options.max_width - margin) // CELL):
            if panel.start > 0:
                yield Segment.line()
            for labels in _header(keys[panel]):
                yield from _line([Segment(" " * margin), *ink.key_labels(labels, margin)])
            for label, row in zip(queries, self.weights, strict=True):
                yield from _line([*ink.query_label(label, margin), *map(ink.cell, row[panel])])
        yield Segment.line()
        yield from _line(ink.legend(masked=any(weight == 0 for row in self.weights for weight in row)))

    def _top(self) -> float:
        return max((max(row, default=0.0) for row in self.weights), default=0.0)


@dataclass(frozen=True)
class _Ink:
    """What cells are drawn with on one console."""

    shading: Shading
    coloured: bool
    ascii_only: bool
    can_place: bool  # whether the cursor can be sent to a column

    @classmethod
    def of(cls, console: Console, top: float) -> _Ink:
        ascii_only = console.options.ascii_only
        return cls(
            shading=Shading(top, ASCII if ascii_only else BLOCKS),
            coloured=console.color_system in COLOURS_NEEDED and not console.no_color,
            ascii_only=ascii_only,
            can_place=console.is_terminal and not console.is_dumb_terminal,
        )

    def label(self, token: str) -> str:
        return ascii_label(token) if self.ascii_only else axis_label(token)

    def key_labels(self, labels: Iterable[str], margin: int) -> Iterator[Segment]:
        """One line of the header, each label filling its cell."""
        for place, label in enumerate(labels, start=1):
            yield Segment(fit(label, CELL))
            yield from self._placed(label, margin + place * CELL)

    def query_label(self, label: str, margin: int) -> Line:
        """What stands before a row, right-aligned."""
        return [Segment(fit(label, margin - GUTTER, right=True) + " " * GUTTER), *self._placed(label, margin)]

    def _placed(self, label: str, column: int) -> Line:
        """What brings the cursor to the column where it should be after a label that terminals disagree on."""
        return [Control.move_to_column(column).segment] if self.can_place and not width_is_certain(label) else []

    def cell(self, weight: float) -> Segment:
        if not self.coloured:
            return Segment(self.shading.cell(weight))
        style = None if weight == 0 else Style(bgcolor=self.shading.background(weight))
        return Segment(" " * CELL, style)

    def legend(self, *, masked: bool) -> Line:
        line = self._coloured_scale() if self.coloured else self._character_scale()
        return [*line, Segment("   blank: no weight")] if masked else line

    def _coloured_scale(self) -> Line:
        steps = 24
        top = self.shading.top
        bar = [Segment(" ", Style(bgcolor=self.shading.background(top * step / steps))) for step in range(steps + 1)]
        return [Segment("weight  0 "), *bar, Segment(f" {_number(top, top)}")]

    def _character_scale(self) -> Line:
        top = self.shading.top
        shades = "   ".join(f"{cell} {_number(weight, top)}" for cell, weight in self.shading.levels())
        return [Segment(f"weight  {shades}")]


def _number(weight: float, top: float) -> str:
    """A weight of a scale that ends with `top`, in as many digits as tell its steps apart."""
    return f"{weight:.2f}" if top >= 0.05 or top == 0 else f"{weight:.1e}"


def _panels(keys: int, fitting: int) -> list[slice]:
    """Slices of the keys, as few as fit the width and as equal as can be."""
    count = max(ceil(keys / max(fitting, 1)), 1)
    return [slice(keys * part // count, keys * (part + 1) // count) for part in range(count if keys else 0)]


def _header(keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The lines above the map: one where each label is a single character, otherwise they are written downwards.

    Labels of two that fill their cells would be read as one: 9, 11, 8 and 10 as 9 118 10.
    """
    fitting = all(cell_len(label) <= CELL and len(_downwards(label)) <= 1 for label in keys)
    columns = [[label] if fitting else _downwards(label) for label in keys]
    height = max(map(len, columns), default=0)
    level = [[""] * (height - len(column)) + column for column in columns]  # all end just above the map
    return list(zip(*level, strict=True))


def _downwards(label: str) -> list[str]:
    """The label one column to a line, marks with the letters they belong to, cut at the longest label."""
    stack: list[str] = []
    for character in label:
        if stack and cell_len(character) == 0:
            stack[-1] += character
        else:
            stack.append(character)
    return stack if len(stack) <= LONGEST_LABEL else [*stack[: LONGEST_LABEL - 1], "…"]


def _line(segments: Iterable[Segment]) -> Iterator[Segment]:
    yield from segments
    yield Segment.line()

"""Small matrices as text: a label a row, side by side where the terminal is wide enough, elided where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from torch import Tensor

from pellucid.viewer.labels import fit

MOST_ROWS = 16
LONGEST_LABEL = 8
INDENT = 2
BETWEEN = 2
NARROWEST = 30  # columns for a matrix that has to share the width
UNLIMITED = 1_000_000
LARGEST = 10_000  # numbers from here on are written with an exponent
BEFORE_SUM = "   "


@dataclass(frozen=True)
class Matrix:
    """A matrix with its formula and the labels of its axes.

    Attributes:
        formula: what it is, in one line.
        values: [rows, columns].
        rows: a label for each row.
        columns: a label for each column; none are shown if empty.
        sums: whether the sum of each row stands behind it.

    """

    formula: str
    values: Tensor
    rows: Sequence[str]
    columns: Sequence[str] = ()
    sums: bool = False

    def lines(self, width: int, *, labelled: bool = True) -> list[str]:
        """The formula with the shape, then the rows, within `width` columns; … and ⋮ stand for what is left out."""
        layout = _Layout.of(self, width, labelled)
        heading = f"{self.formula} {list(self.values.shape)}"
        names = [layout.line("", layout.chosen(self.columns), "sum")] if self.columns else []
        return [heading, *names, *(self._row(row, layout) for row in _kept(self.values.shape[0], MOST_ROWS))]

    def _row(self, row: int | None, layout: _Layout) -> str:
        if row is None:
            return layout.line("⋮", [], "")
        cells = [_number(value) for value in self.values[row].tolist()]
        return layout.line(self.rows[row], layout.chosen(cells), _number(self.values[row].sum().item()))


@dataclass(frozen=True)
class _Layout:
    """Which columns of a matrix are shown, and how wide its parts are."""

    margin: int  # columns of a row's label and the space after it
    cell: int
    sum: int  # 0 where there are no sums
    kept: Sequence[int | None]

    @classmethod
    def of(cls, matrix: Matrix, width: int, labelled: bool) -> _Layout:
        margin = max((min(cell_len(label), LONGEST_LABEL) + 1 for label in matrix.rows), default=0) if labelled else 0
        cell = _widest(matrix.values)
        total = _widest(matrix.values.sum(-1)) if matrix.sums else 0
        fitting = (width - margin - (total + len(BEFORE_SUM) if matrix.sums else 0)) // (cell + 1)
        return cls(margin, cell, total, _kept(matrix.values.shape[1], max(fitting, 3)))

    def chosen(self, cells: Sequence[str]) -> list[str]:
        return ["…" if column is None else cells[column] for column in self.kept]

    def line(self, label: str, cells: Sequence[str], total: str) -> str:
        start = fit(label, self.margin - 1, right=True) + " " if self.margin else ""
        end = BEFORE_SUM + fit(total, self.sum, right=True) if self.sum else ""
        return start + " ".join(fit(text, self.cell, right=True) for text in cells) + end


@dataclass(frozen=True)
class SideBySide:
    """Matrices beside one another where they fit, elided if need be; on a narrow terminal one below the other.

    A matrix with the same rows as its left neighbour does not repeat their labels.
    """

    matrices: Sequence[Matrix]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield whole lines."""
        for line in self._lines(options.max_width - INDENT):
            yield Segment((" " * INDENT + line).rstrip())
            yield Segment.line()

    def _lines(self, width: int) -> list[str]:
        share = (width - BETWEEN * (len(self.matrices) - 1)) // len(self.matrices)
        whole = self._joined(UNLIMITED)
        if max(map(cell_len, whole)) <= width:
            return whole
        if share >= NARROWEST:
            return self._joined(share)
        return [line for matrix in self.matrices for line in ["", *matrix.lines(width)]][1:]

    def _joined(self, width: int) -> list[str]:
        neighbours = [None, *self.matrices[:-1]]
        blocks = [
            matrix.lines(width, labelled=neighbour is None or neighbour.rows != matrix.rows)
            for neighbour, matrix in zip(neighbours, self.matrices, strict=True)
        ]
        widths = [max(map(cell_len, block)) for block in blocks]
        return [
            (" " * BETWEEN).join(fit(text, width) for text, width in zip(texts, widths, strict=True))
            for texts in zip_longest(*blocks, fillvalue="")
        ]


def _widest(values: Tensor) -> int:
    """Columns that the longest of the numbers needs."""
    if values.numel() == 0 or values.abs().max() >= LARGEST:
        return len("-1.23e+05")
    return max(len(_number(values.min().item())), len(_number(values.max().item())))


def _kept(count: int, most: int) -> list[int | None]:
    """The places that are shown, None where some are left out."""
    if count <= most:
        return list(range(count))
    before, after = most // 2, (most - 1) // 2
    return [*range(before), None, *range(count - after, count)]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < LARGEST else f"{value:.3g}"

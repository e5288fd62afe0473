"""A few expressions side by side (row.py), and what torch's functions make of them (named.py lists all)."""

from pellucid.language.rows.named import OF_ROWS
from pellucid.language.rows.reductions import amax, amin
from pellucid.language.rows.row import Part, Row, elementwise, is_row, row_of
from pellucid.language.rows.shapes import transpose, transposed

__all__ = [
    "OF_ROWS",
    "Part",
    "Row",
    "amax",
    "amin",
    "elementwise",
    "is_row",
    "row_of",
    "transpose",
    "transposed",
]

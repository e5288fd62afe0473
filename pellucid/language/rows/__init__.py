"""Functions of rows: a few expressions side by side, and what torch's functions make of them."""

from pellucid.language.rows.reductions import REDUCTIONS, amax, amin, transpose, transposed
from pellucid.language.rows.row import Part, Row, elementwise, is_row, row_of

__all__ = [
    "REDUCTIONS",
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

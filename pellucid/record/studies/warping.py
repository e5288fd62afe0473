"""Dynamic time warping: the cheapest way through a matrix of costs from its first corner to its last.

The rows and columns that the way visits never go back, so it aligns two sequences that run in the same order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_BOTH, _ROW, _COLUMN = 0, 1, 2  # what was stepped over to come to a place


class Path(NamedTuple):
    """The places that the way visits, from the first to the last, int64 [steps]."""

    rows: Tensor
    columns: Tensor


def warp(costs: Tensor) -> Path:
    """The cheapest way through `costs`, [rows, columns], stepping by a row, a column or both.

    Where two steps are equally cheap, the one along the row is taken, as Whisper's routine does. Sums are kept in
    float32. The matrix is gone through by its diagonals, whose entries do not depend on one another; what is kept of
    it is one byte an entry.

    Raises:
        ValueError: the matrix is empty or holds NaN.

    """
    if costs.ndim != 2 or not costs.numel():
        raise ValueError(f"costs: a matrix [rows, columns] is needed, got {list(costs.shape)}")
    if bool(costs.isnan().any()):
        raise ValueError("costs: must be numbers, got NaN")
    return _back(_steps(costs.detach().cpu().contiguous()))


def _steps(costs: Tensor) -> Tensor:
    """How each place is best come to, uint8 [rows, columns]."""
    rows, columns = costs.shape
    steps = torch.empty(rows, columns, dtype=torch.uint8, device="cpu")
    infinite = torch.full((rows + 1,), torch.inf, device="cpu")
    before, last = infinite.clone(), infinite.clone()  # the two diagonals before, by row + 1
    before[0] = 0.0  # the corner outside of the matrix
    for diagonal in range(rows + columns - 1):
        first, end = max(0, diagonal - columns + 1), min(rows, diagonal + 1)
        both, row, column = before[first:end], last[first:end], last[first + 1 : end + 1]
        is_both, is_row = (both < row) & (both < column), (row < both) & (row < column)
        cheapest = torch.where(is_both, both, torch.where(is_row, row, column))
        current = infinite.clone()
        current[first + 1 : end + 1] = (_diagonal(costs, diagonal, first, end).double() + cheapest.double()).float()
        _diagonal(steps, diagonal, first, end).copy_(torch.where(is_both, _BOTH, torch.where(is_row, _ROW, _COLUMN)))
        before, last = last, current
    return steps


def _diagonal(matrix: Tensor, number: int, first: int, end: int) -> Tensor:
    """The entries [row, number - row] for rows from `first` to before `end`, a view of a contiguous matrix."""
    columns = matrix.shape[1]
    return matrix.as_strided((end - first,), (columns - 1,), first * columns + number - first)


def _back(steps: Tensor) -> Path:
    """The way, followed from its end."""
    row, column = steps.shape[0] - 1, steps.shape[1] - 1
    visited = [(row, column)]
    while row or column:
        step = _COLUMN if not row else _ROW if not column else int(steps[row, column])
        row -= step != _COLUMN
        column -= step != _ROW
        visited.append((row, column))
    rows, columns = torch.tensor(visited[::-1], device="cpu").unbind(1)
    return Path(rows, columns)

"""Rows in other shapes: put together, turned, taken apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pellucid.language.operands import UnsupportedError
from pellucid.language.rows.reductions import dimensions, merged
from pellucid.language.rows.row import Result, Row, row_of, simple


def stack(tensors: Sequence[Any], dim: int = 0) -> Row:
    """Values side by side along a new dimension. Raises UnsupportedError for rows of several shapes."""
    rows = [row_of(t) for t in tensors]
    if any(row.shape != rows[0].shape for row in rows):
        raise UnsupportedError(f"stack: one shape is needed, got {[list(row.shape) for row in rows]}")
    own = dim % (len(rows[0].shape) + 1)
    shape = (*rows[0].shape[:own], len(rows), *rows[0].shape[own:])
    return Row.of(shape, lambda p: rows[p[own]].at((*p[:own], *p[own + 1 :])))


def cat(tensors: Sequence[Any], dim: int = 0) -> Row:
    """Rows one after another. Raises UnsupportedError for rows that have not one dimension."""
    rows = [row_of(t) for t in tensors]
    if any(len(row.shape) != 1 for row in rows):
        raise UnsupportedError("cat: rows of one dimension are needed; use torch.stack")
    elements = [e for row in rows for e in row.elements]
    return Row.of((len(elements),), lambda place: elements[place[0]])


def reshape(input: Any, *shape: Any) -> Result:
    """The same elements in another shape. Raises UnsupportedError for a shape of more elements or fewer."""
    row = row_of(input)
    sizes = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
    if sizes.count(-1) == 1:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = len(row.elements) // rest if rest else 0
    if math.prod(sizes) != len(row.elements):
        raise UnsupportedError(f"a row of shape {list(row.shape)} has no shape {sizes}")
    return simple(row.reshaped(tuple(sizes)))


def unsqueeze(input: Any, dim: int) -> Row:
    """With one more dimension of size 1."""
    row = row_of(input)
    own = dim % (len(row.shape) + 1)
    return row.reshaped((*row.shape[:own], 1, *row.shape[own:]))


def squeeze(input: Any, dim: Any = None) -> Result:
    """Without dimensions of size 1. Raises UnsupportedError for a dimension that there is not."""
    row = row_of(input)
    dims = dimensions(row, dim) if row.shape else ()
    return simple(row.reshaped(tuple(n for d, n in enumerate(row.shape) if n != 1 or d not in dims)))


def permute(input: Any, *dims: Any) -> Result:
    """The dimensions in another order. Raises UnsupportedError for a dimension that there is not."""
    row = row_of(input)
    order = dimensions(row, dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)
    shape = tuple(row.shape[d] for d in order)
    return simple(Row.of(shape, lambda p: row.at(merged(order, p, (), ()))))


def transpose(input: Any, dim0: int, dim1: int) -> Result:
    """Two dimensions exchanged."""
    ndim = max(len(row_of(input).shape), 1)
    order = list(range(ndim))
    order[dim0 % ndim], order[dim1 % ndim] = order[dim1 % ndim], order[dim0 % ndim]
    return permute(input, order) if row_of(input).shape else simple(row_of(input))


def transposed(input: Any) -> Result:
    """The dimensions in reverse order."""
    row = row_of(input)
    return permute(row, list(reversed(range(len(row.shape))))) if row.shape else simple(row)


def unbind(input: Any, dim: int = 0) -> tuple[Result, ...]:
    """The rows along a dimension. Raises UnsupportedError for a dimension that there is not."""
    row = row_of(input)
    (own,) = dimensions(row, dim)
    return tuple(row.indexed((slice(None),) * own + (i,)) for i in range(row.shape[own]))


def flatten(input: Any) -> Result:
    """In one dimension."""
    return row_of(input).reshaped((len(row_of(input).elements),))

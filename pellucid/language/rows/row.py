"""A few expressions side by side: what is left of a captured tensor that is not indexed in all its dimensions.

A Row is a small tensor of expressions, of any number of dimensions; a Part is a captured tensor with some of its
dimensions indexed, which becomes a Row when something is computed with it. Operators act on each element, broadcasting
as torch does, and reductions.py makes one score of them. Everything is written out element by element, so rows are
short.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pellucid.language.expression import Expression, constant, promoted
from pellucid.language.operands import UnsupportedError, element, expression

MOST_ELEMENTS = 64
Shape = tuple[int, ...]
Place = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Row:
    """A tensor of expressions of one kind."""

    shape: Shape
    elements: tuple[Expression, ...]  # the last dimension's side by side

    @staticmethod
    def of(shape: Shape, element_at: Callable[[Place], Any]) -> Row:
        """The row whose element at each place is what `element_at` gives. Raises UnsupportedError for a long one."""
        if math.prod(shape) > MOST_ELEMENTS:
            raise UnsupportedError(
                f"a tensor of shape {list(shape)} is computed for every score; at most {MOST_ELEMENTS} elements are. "
                "Compute what needs more of them before, for all queries and keys at once, and index that"
            )
        return Row(shape, promoted(tuple(expression(element_at(place)) for place in _places(shape))))

    def at(self, place: Place) -> Expression:
        """One element."""
        flat = 0
        for index, size in zip(place, self.shape, strict=True):
            flat = flat * size + index
        return self.elements[flat]

    def reshaped(self, shape: Shape) -> Row:
        """The same elements in another shape."""
        return Row(shape, self.elements)

    def indexed(self, index: Any) -> Any:
        """What indexing by numbers, slices, ... and None leaves: a row or one expression.

        Raises UnsupportedError for another index, one that is beyond its dimension, or too many.
        """
        items = _without_ellipsis(index if isinstance(index, tuple) else (index,), self.shape)
        sizes = iter(self.shape)
        chosen = [None if item is None else _chosen(item, next(sizes)) for item in items]
        chosen += [list(range(size)) for size in sizes]
        shape = tuple(1 if c is None else len(c) for c in chosen if not isinstance(c, int))

        def at(place: Place) -> Expression:
            left = iter(place)
            picked = [(c, 0 if isinstance(c, int) else next(left)) for c in chosen]
            return self.at(tuple(c if isinstance(c, int) else c[i] for c, i in picked if c is not None))

        return simple(Row.of(shape, at))


def _chosen(item: Any, size: int) -> int | list[int]:
    """Which of a dimension's places an index takes."""
    if isinstance(item, slice):
        return list(range(size)[item])
    if isinstance(item, bool) or not isinstance(item, int):
        raise UnsupportedError(
            f"a computed row is indexed by a {type(item).__name__}; index the captured tensor itself: tensor[h, q_idx]"
        )
    if not -size <= item < size:
        raise UnsupportedError(f"a row is indexed by {item} in a dimension of {size}")
    return item % size


Result = Row | Expression  # of a function of rows


@dataclass(frozen=True, eq=False)
class Part:
    """A captured tensor with an index for some of its dimensions, None for those that are left."""

    tensor: Tensor
    indices: tuple[Expression | None, ...]

    @staticmethod
    def of(tensor: Tensor) -> Part:
        """All of a captured tensor."""
        return Part(tensor, (None,) * tensor.ndim)

    @property
    def shape(self) -> Shape:
        """The sizes of what is left."""
        return tuple(size for size, index in zip(self.tensor.shape, self.indices, strict=True) if index is None)

    @property
    def elements(self) -> tuple[Expression, ...]:
        """The elements of what is left."""
        return row_of(self).elements

    def whole(self) -> Row:
        """Every element of what is left."""
        return Row.of(self.shape, self._at)

    def _at(self, place: Place) -> Expression:
        left = iter(place)
        return element(self.tensor, tuple(constant(next(left)) if i is None else i for i in self.indices))

    def indexed(self, index: Any) -> Any:
        """What indexing leaves, by expressions as well: one expression once every dimension has an index.

        Raises UnsupportedError for a float or a bool, a number that is beyond its dimension, or too many.
        """
        chosen = index if isinstance(index, tuple) else (index,)
        if any(map(_many, chosen)):
            return self._indexed_by_rows(chosen)
        part, dimension = self, 0  # of what is left
        for item in _without_ellipsis(chosen, self.shape):
            part = part._with(dimension, item)
            dimension += item is None or isinstance(item, slice)
        return element(part.tensor, part.indices) if None not in part.indices else part  # type: ignore[arg-type]

    def _indexed_by_rows(self, chosen: tuple[Any, ...]) -> Any:
        rows = [row_of(_of_list(i)) if _many(i) else i for i in chosen]
        shape = broadcast(*(i.shape for i in rows if isinstance(i, Row)))
        return simple(Row.of(shape, lambda place: self.indexed(tuple(_pick(i, place) for i in rows))))

    def _with(self, dimension: int, item: Any) -> Part:
        """The part with one more index, slice or None at one of the dimensions that are left."""
        left = [i for i, index in enumerate(self.indices) if index is None]
        own = left[dimension] if dimension < len(left) else len(self.indices)
        before, after = self.indices[:own], self.indices[own + 1 :]
        if item is None:
            return Part(self.tensor.unsqueeze(own), (*before, None, *self.indices[own:]))
        if isinstance(item, slice):
            return Part(self.tensor[(slice(None),) * own + (item,)], self.indices)
        return Part(self.tensor, (*before, _index(item, self.tensor.shape[own]), *after))


def _many(item: Any) -> bool:
    return is_row(item) or isinstance(item, list)


def _of_list(item: Any) -> Any:
    return Row.of((len(item),), lambda place: item[place[0]]) if isinstance(item, list) else item


def _without_ellipsis(chosen: tuple[Any, ...], shape: Shape) -> list[Any]:
    """The index with a slice for each dimension that an ... stands for."""
    used = sum(item is not None and item is not Ellipsis for item in chosen)
    if used > len(shape):
        raise UnsupportedError(f"a tensor of shape {list(shape)} has no {used} dimensions to index")
    items: list[Any] = []
    for item in chosen:
        items += [slice(None)] * (len(shape) - used) if item is Ellipsis else [item]
    return items


def _index(item: Any, size: int) -> Expression:
    found = expression(item)
    if found.kind != "int":
        raise UnsupportedError("a captured tensor is indexed by a float or a bool; convert it with .to(torch.long)")
    if found.op == "constant" and not -size <= found.value < size:
        raise UnsupportedError(f"a captured tensor is indexed by {found.value} in a dimension of {size}")
    return found


def is_row(value: Any) -> bool:
    """Whether a value has dimensions."""
    return isinstance(value, Row | Part) or (isinstance(value, Tensor) and value.ndim > 0)


def row_of(value: Any) -> Row:
    """A value as a row: of no dimensions if it is one number. Raises UnsupportedError for a long one."""
    if isinstance(value, Row):
        return value
    if isinstance(value, Tensor) and value.ndim > 0:
        value = Part.of(value)
    if isinstance(value, Part):
        if math.prod(value.shape) > MOST_ELEMENTS:
            raise UnsupportedError(_too_long(value))
        return value.whole()
    return Row((), (expression(value),))


def _too_long(part: Part) -> str:
    shape, used = list(part.tensor.shape), sum(index is not None for index in part.indices)
    if not used:
        return f"a captured tensor of shape {shape} is used whole; index it: tensor[h, q_idx]"
    return (
        f"a captured tensor of shape {shape} is indexed by {used} of its {len(shape)} dimensions, which leaves more "
        f"than {MOST_ELEMENTS} elements for every score; index all of them, or compute what needs more before, for all "
        "queries and keys at once, and index that"
    )


def simple(row: Row) -> Result:
    """The expression of a row of no dimensions; another row as it is."""
    return row if row.shape else row.elements[0]


def elementwise(function: Callable[..., Expression]) -> Callable[..., Any]:
    """`function` for rows as well: of the elements at each place, broadcast."""

    def over_rows(*args: Any, **kwargs: Any) -> Any:
        rows = [value for value in (*args, *kwargs.values()) if is_row(value)]
        if not rows:
            return function(*args, **kwargs)
        args = tuple(row_of(a) if is_row(a) else a for a in args)
        kwargs = {name: row_of(a) if is_row(a) else a for name, a in kwargs.items()}
        shape = broadcast(*(tuple(row.shape) for row in rows))
        return Row.of(
            shape, lambda p: function(*(_pick(a, p) for a in args), **{n: _pick(a, p) for n, a in kwargs.items()})
        )

    return over_rows


def broadcast(*shapes: Shape) -> Shape:
    """The shape to which shapes broadcast. Raises UnsupportedError if they do not."""
    sizes: list[int] = []
    for column in itertools.zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        several = {size for size in column if size != 1} or {1}
        if len(several) > 1:
            raise UnsupportedError(f"shapes {', '.join(str(list(shape)) for shape in shapes)} do not broadcast")
        sizes += several
    return tuple(reversed(sizes))


def _pick(value: Any, place: Place) -> Any:
    """What stands at a place of the broadcast shape."""
    if not isinstance(value, Row):
        return value
    own = place[len(place) - len(value.shape) :]
    return value.at(tuple(0 if size == 1 else index for index, size in zip(own, value.shape, strict=True)))


def _places(shape: Shape) -> Iterator[Place]:
    return itertools.product(*map(range, shape))

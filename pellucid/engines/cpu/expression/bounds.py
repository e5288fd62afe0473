"""Bounds of the user's functions over a tile, compiled: language/interval.py's rules, for what masks are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from llvmlite import ir

from pellucid.engines.cpu.expression.program import Program, SlotArguments, of_dtype
from pellucid.engines.cpu.machine.builder import I1, I64, Code, Value, element_of
from pellucid.language import Expression, Interval, walk

TABLE_BLOCK = 64  # elements of a captured tensor's last dimension that share a minimum and a maximum
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
UNCHECKED = {"mul": 1 << 31} | dict.fromkeys(("add", "sub", "neg", "abs"), 1 << 62)  # what stays an int64 of such


@dataclass
class Span:
    """Bounds in the kernel: low and high, int64 or (for a bool) one bit."""

    low: Value
    high: Value

    def within(self, limit: int) -> Value:
        """Whether all is from -limit up to, but not, limit."""
        return (self.low >= -limit) & (self.high < limit)


class Bounds:
    """Computes whether a tile's keys may be, and are all, allowed. What it does not know it takes as mixed.

    An int that may have wrapped around, as torch's do, may be any; that is looked at where the dtypes of what is read
    do not rule it out.

    Args:
        code: the function being written.
        program: the user's functions.
        arguments: where captured tensors lie, by the number of their slot.
        places: bounds of b, h, q and k in the tile, by name, int64; what is not there is unknown.

    """

    def __init__(
        self, code: Code, program: Program, arguments: dict[int, SlotArguments], places: dict[str, Span]
    ) -> None:
        self.code, self.program, self.arguments, self.places = code, program, arguments, places

    def of(self, root: Expression) -> Span:
        """Bounds of a bool expression."""
        known: dict[int, Span | None] = {}
        for node in walk(root):
            known[id(node)] = self._node(node, [known[id(a)] for a in node.args])
        return known[id(root)] or self._mixed()

    def _mixed(self) -> Span:
        return Span(self.code.constant(I1, 0), self.code.constant(I1, 1))

    def _node(self, node: Expression, args: list[Span | None]) -> Span | None:
        code = self.code
        if node.op == "constant" and node.kind != "float":
            value = code.constant(I1 if node.kind == "bool" else I64, node.value)
            return Span(value, value)
        if node.op == "input":
            return self.places.get(node.value)
        if node.op == "load":
            return self._load(node, args)
        if node.op in ("and", "or") and node.kind == "bool":
            left, right = (a or self._mixed() for a in args)
            combine: Callable[[Value, Value], Value] = (
                (lambda x, y: x & y) if node.op == "and" else (lambda x, y: x | y)
            )
            return Span(combine(left.low, right.low), combine(left.high, right.high))
        if node.op == "where":
            return self._where(*args)
        if any(a is None for a in args) or node.kind == "float" or any(a.kind == "float" for a in node.args):
            return None
        if node.args[0].kind == "bool" and node.op not in ("not", "cast"):
            return None
        rule = SPANS.get(node.op)
        found = rule(code, *args) if rule else None
        if found is None or node.op not in UNCHECKED or id(node) in self.program.bounded:
            return found
        return self._unless_wrapped(found, UNCHECKED[node.op], *filter(None, args))

    def _unless_wrapped(self, found: Span, limit: int, *args: Span) -> Span:
        """The result, or every int64 if an argument has bounds beyond the limit."""
        code, fits = self.code, self.code.constant(I1, 1)
        for arg in args:
            fits = fits & arg.within(limit)
        return Span(code.select(fits, found.low, LOWEST), code.select(fits, found.high, HIGHEST))

    def _where(self, condition: Span | None, left: Span | None, right: Span | None) -> Span | None:
        if left is None or right is None:
            return None
        code, condition = self.code, condition or self._mixed()
        both = _hull(code, left, right)
        low = code.select(condition.low, left.low, code.select(condition.high, both.low, right.low))
        high = code.select(condition.low, left.high, code.select(condition.high, both.high, right.high))
        return Span(low, high)

    def _load(self, node: Expression, args: list[Span | None]) -> Span | None:
        slot = self.program.slots[id(node.value)]
        where = self.arguments[slot.number]
        if not args:  # a number, such as an offset of places
            if node.value.dtype != torch.int64:
                return None
            number = self.code.load(where.pointer, I64, 0)
            return Span(number, number)
        if where.table is None or any(a is None for a in args):
            return None
        code = self.code
        row, exact = code.i64(0), code.constant(I1, 1)
        for span, size in zip(args[:-1], where.sizes, strict=False):
            assert span is not None
            exact &= (span.low == span.high) & (span.low >= 0) & (span.low < size)
            row = row * size + span.low
        last, size = args[-1], where.sizes[-1]
        assert last is not None
        exact &= (last.low >= 0) & (last.low < size)
        found = self._table_lookup(where, row, last, exact, of_dtype(node.value, []) or Interval(0, 1))
        return Span(found.low > 0, found.high > 0) if node.kind == "bool" else found

    def _table_lookup(self, where: SlotArguments, row: Value, last: Span, exact: Value, every: Interval) -> Span:
        """The smallest minimum and largest maximum of the blocks that the index may fall into, if that is `exact`."""
        code, table = self.code, where.table
        assert table is not None
        size = where.sizes[-1]
        blocks = (size + (TABLE_BLOCK - 1)) >> int(math.log2(TABLE_BLOCK))
        rows = code.i64(1)
        for length in where.sizes[:-1]:
            rows = rows * length
        shift = int(math.log2(TABLE_BLOCK))
        first = code.select(exact, (row * blocks) + (last.low >> shift), 0)
        stop = code.select(exact, row * blocks + (code.minimum(last.high, size - 1) >> shift) + 1, 0)

        def widen(i: Value, low: Value, high: Value) -> list[Value]:
            least, most = code.load(table, I64, i), code.load(table, I64, rows * blocks + i)
            return [code.minimum(low, least), code.maximum(high, most)]

        low, high = code.loop(first, stop, widen, [code.i64(HIGHEST), code.i64(LOWEST)])
        return Span(code.select(exact, low, int(every.low)), code.select(exact, high, int(every.high)))


def _hull(code: Code, a: Span, b: Span) -> Span:
    if element_of(a.low.type) == I1:
        return Span(a.low & b.low, a.high | b.high)
    return Span(code.minimum(a.low, b.low), code.maximum(a.high, b.high))


def _corners(combine: Callable[[Value, Value], Value]) -> Callable[..., Span]:
    def rule(code: Code, a: Span, b: Span) -> Span:
        values = [combine(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
        low = high = values[0]
        for value in values[1:]:
            low, high = code.minimum(low, value), code.maximum(high, value)
        return Span(low, high)

    return rule


def _constant(value: Value) -> int | None:
    return value.raw.constant if isinstance(value.raw, ir.Constant) else None


def _span_floordiv(code: Code, a: Span, b: Span) -> Span | None:
    divisor = _constant(b.low)
    if divisor is None or divisor <= 0:
        return None
    return Span(a.low // divisor, a.high // divisor)


def _span_mod(code: Code, a: Span, b: Span) -> Span | None:
    divisor = _constant(b.low)
    if divisor is None or divisor <= 0:
        return None
    same = a.low // divisor == a.high // divisor
    return Span(code.select(same, a.low % divisor, 0), code.select(same, a.high % divisor, divisor - 1))


def _span_abs(code: Code, a: Span) -> Span:
    largest = code.maximum(a.high, -a.low)
    smallest = code.maximum(code.maximum(a.low, -a.high), 0)
    return Span(smallest, largest)


def _span_not(code: Code, a: Span) -> Span | None:
    return Span(~a.high, ~a.low)


def _span_cast(code: Code, a: Span) -> Span | None:
    # To an int from a bool, or to a bool from an int.
    if element_of(a.low.type) == I1:
        return Span(a.low.extended(I64), a.high.extended(I64))
    return Span((a.low > 0) | (a.high < 0), (a.low != 0) | (a.high != 0))


SPANS: dict[str, Callable[..., Any]] = {
    "add": lambda code, a, b: Span(a.low + b.low, a.high + b.high),
    "sub": lambda code, a, b: Span(a.low - b.high, a.high - b.low),
    "mul": _corners(lambda x, y: x * y),
    "floordiv": _span_floordiv,
    "mod": _span_mod,
    "minimum": lambda code, a, b: Span(code.minimum(a.low, b.low), code.minimum(a.high, b.high)),
    "maximum": lambda code, a, b: Span(code.maximum(a.low, b.low), code.maximum(a.high, b.high)),
    "neg": lambda code, a: Span(-a.high, -a.low),
    "abs": _span_abs,
    "not": _span_not,
    "cast": _span_cast,
    "eq": lambda code, a, b: Span(
        (a.low == a.high) & (b.low == b.high) & (a.low == b.low), (a.low <= b.high) & (b.low <= a.high)
    ),
    "ne": lambda code, a, b: Span(
        (a.high < b.low) | (b.high < a.low), ~((a.low == a.high) & (b.low == b.high) & (a.low == b.low))
    ),
    "lt": lambda code, a, b: Span(a.high < b.low, a.low < b.high),
    "le": lambda code, a, b: Span(a.high <= b.low, a.low <= b.high),
    "gt": lambda code, a, b: Span(a.low > b.high, a.high > b.low),
    "ge": lambda code, a, b: Span(a.low >= b.high, a.high >= b.low),
}

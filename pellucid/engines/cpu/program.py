"""The score language as machine code: an expression's values for neighbouring keys, and its bounds over a tile.

A captured tensor is a slot: its address, sizes and strides are read from the call's arguments, so one kernel serves all
tensors of a kind. Every index is kept inside its tensor, whatever the function computes: where torch would raise for an
index out of range, the nearest element is read.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from llvmlite import ir
from torch import Tensor

from pellucid.engines.cpu import by_lane, circular, vectormath
from pellucid.engines.cpu.builder import F16, F32, F64, I1, I8, I16, I32, I64, Code, Value, element_of, vector
from pellucid.language import Expression, Interval, bounds, bounds_of_all, walk

MOST_FINITE = 1e30
STORED: dict[str, ir.Type] = {
    "bool": I8, "uint8": I8, "int8": I8, "int16": I16, "int32": I32, "int64": I64,
    "float16": F16, "bfloat16": I16, "float32": F32, "float64": F64,
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """A captured tensor as a kernel knows it: which of the arguments describe it, and what is known of it."""

    number: int
    dtype: str
    ndim: int
    contiguous: bool  # neighbouring elements of the last dimension lie side by side
    whole: bool  # the last dimension is at least as long as the keys
    table: bool  # the arguments hold its block minima and maxima


@dataclass
class Program:
    """The expressions of one kernel, with their captured tensors numbered."""

    roots: dict[str, Expression]
    slots: dict[int, Slot]  # by the id of the load's tensor

    def description(self) -> str:
        """What the machine code depends on: the expressions, with slots in place of tensors."""
        names: dict[int, str] = {}
        lines = []
        for number, node in enumerate(walk(*self.roots.values())):
            names[id(node)] = f"%{number}"
            value = self.slots[id(node.value)] if node.op == "load" else node.value
            lines.append(f"%{number}={node.op}:{node.kind}({','.join(names[id(a)] for a in node.args)}){value!r}")
        roots = ",".join(f"{name}={names[id(root)]}" for name, root in self.roots.items())
        return f"{roots};{';'.join(lines)}"

    @cached_property
    def bounded(self) -> frozenset[int]:
        """Ids of the nodes whose ints never wrap around, whatever tensors hold."""
        found = bounds_of_all(*self.roots.values(), places=ANYWHERE, loaded=_of_dtype)
        return frozenset(node for node, bounds in found.items() if bounds is not None)


@dataclass
class Numbers:
    """The machine types that stand for the language's int and float."""

    integer: ir.Type
    floating: ir.Type

    def of(self, kind: str, lanes: int) -> ir.Type:
        """The type of a kind."""
        return vector({"bool": I1, "int": self.integer, "float": self.floating}[kind], lanes)


@dataclass
class SlotArguments:
    """Where a captured tensor lies, as values in the kernel."""

    pointer: Value
    sizes: list[Value]
    strides: list[Value]
    table: Value | None  # minima and maxima of blocks of the last dimension, [2, rows, blocks], float64


@dataclass
class Values:
    """Computes expressions lane by lane; what does not depend on the key is computed once, as a scalar."""

    code: Code
    program: Program
    numbers: Numbers
    arguments: dict[int, SlotArguments]
    known: dict[int, Value] = field(default_factory=dict)
    offsets: dict[tuple[int, int, int], Value] = field(default_factory=dict)  # by slot, dimension and index

    def bind(self, name: str, value: Value) -> Values:
        """These values, with an input known as well."""
        known, offsets = dict(self.known), dict(self.offsets)
        bound = Values(self.code, self.program, self.numbers, self.arguments, known, offsets)
        for node in walk(*self.program.roots.values()):
            if node.op == "input" and node.value == name:
                bound.known[id(node)] = value
        return bound

    def prepare(self, *roots: Expression) -> None:
        """Compute what is already determined: called outside a loop, so that the loop does not."""
        for node in walk(*roots):
            if node.op != "input" and all(id(a) in self.known for a in node.args):
                self.value(node)
            elif node.op == "load":
                for dimension, index in enumerate(node.args):
                    if id(index) in self.known:
                        self._offset_along(node, dimension)

    def value(self, root: Expression, valid: Value | None = None) -> Value:
        """The value of an expression, in as many lanes as it needs. Lanes where not `valid` load nothing."""
        for node in walk(root):
            if id(node) not in self.known:
                self.known[id(node)] = self._compute(node, [self.known[id(a)] for a in node.args], valid)
        return self.known[id(root)]

    def _compute(self, node: Expression, args: list[Value], valid: Value | None) -> Value:
        code = self.code
        if node.op == "constant":
            return code.constant(self.numbers.of(node.kind, 1), node.value)
        if node.op == "load":
            return self._load(node, args, valid)
        if node.op == "cast":
            return self._cast(args[0], node.kind)
        if node.op == "where":
            return code.select(*args)
        if node.op in UNARY:
            return UNARY[node.op](code, args[0])
        if node.args[0].kind == "bool" and node.op in ("lt", "le", "gt", "ge"):
            args = [a.to(self.numbers.integer) for a in args]  # one bit's 1 is -1 to a signed comparison
        return BINARY[node.op](code, *code.match(*args))

    def _cast(self, value: Value, kind: str) -> Value:
        if kind == "bool":
            return value != 0
        return value.to(self.numbers.integer if kind == "int" else self.numbers.floating)

    def _load(self, node: Expression, indices: list[Value], valid: Value | None) -> Value:
        code, slot = self.code, self.program.slots[id(node.value)]
        pointer, stored = self.arguments[slot.number].pointer, STORED[slot.dtype]
        if self.lies_along_keys(node):
            offset = self._offset(node, range(len(indices) - 1)) + indices[-1].lane(0).to(I64)
            type_ = vector(stored, indices[-1].lanes)
            if valid is None:
                return self._loaded(code.load(pointer, type_, offset), node, slot)
            return self._loaded(code.masked_load(pointer, type_, valid, offset), node, slot)
        one = self._offset(node, [i for i, index in enumerate(indices) if index.lanes == 1])
        several = [i for i, index in enumerate(indices) if index.lanes > 1]
        if not several:
            return self._loaded(code.load(pointer, stored, one), node, slot)
        offset = self._offset(node, several)
        everywhere = code.constant(vector(I1, offset.lanes), 1)
        return self._loaded(code.gather(code.at(pointer, one, stored), stored, offset, everywhere), node, slot)

    def lies_along_keys(self, load: Expression) -> bool:
        """Whether neighbouring keys' elements of a captured tensor lie side by side, and every key has one."""
        slot = self.program.slots[id(load.value)]
        along = bool(load.args) and load.args[-1].op == "input" and load.args[-1].value == "k"
        return along and slot.contiguous and slot.whole and not {"k", "score"} & _inputs(*load.args[:-1])

    def rows_of(self, *roots: Expression) -> list[Expression]:
        """The loads that read a row of a captured tensor for each query, its elements key by key."""
        loads = [node for node in walk(*roots) if node.op == "load" and self.lies_along_keys(node)]
        return [load for load in loads if "q" in _inputs(*load.args)]

    def fetch(self, load: Expression, keys: Iterable[Value], cache: int) -> None:
        """Ask for a row's elements at some keys to be brought to a cache; the row's place is known."""
        slot = self.program.slots[id(load.value)]
        for index in load.args[:-1]:
            self.value(index)
        row = self._offset(load, range(len(load.args) - 1))
        for key in keys:
            self.code.prefetch(self.arguments[slot.number].pointer, STORED[slot.dtype], row + key, cache)

    def _offset(self, load: Expression, dimensions: Sequence[int]) -> Value:
        """The share of some dimensions in an element's offset."""
        offset = self.code.i64(0)
        for dimension in dimensions:
            offset = self._offset_along(load, dimension) + offset
        return offset

    def _offset_along(self, load: Expression, dimension: int) -> Value:
        """One dimension's share, the index wrapped if negative and then kept inside; computed once."""
        code, slot, index = self.code, self.program.slots[id(load.value)], load.args[dimension]
        where, key = self.arguments[slot.number], (slot.number, dimension, id(index))
        if key not in self.offsets:
            size, wide = where.sizes[dimension], self.known[id(index)].to(I64)
            wrapped = code.select(wide < 0, wide + size, wide)
            inside = code.minimum(code.maximum(wrapped, 0), size - 1)
            self.offsets[key] = inside * where.strides[dimension]
        return self.offsets[key]

    def _loaded(self, raw: Value, node: Expression, slot: Slot) -> Value:
        if slot.dtype == "bool":
            return raw != 0
        if slot.dtype == "bfloat16":
            return bfloat16_to_float(raw).to(self.numbers.floating)
        if slot.dtype == "uint8":
            return Value(self.code, self.code.ir.zext(raw.raw, vector(I32, raw.lanes))).to(self.numbers.integer)
        return raw.to(self.numbers.integer if node.kind == "int" else self.numbers.floating)


def _inputs(*roots: Expression) -> set[str]:
    """The inputs that expressions depend on."""
    return {node.value for node in walk(*roots) if node.op == "input"}


def bfloat16_to_float(raw: Value) -> Value:
    """float32 of bfloat16's bits in an int16."""
    wide = Value(raw.code, raw.code.ir.zext(raw.raw, vector(I32, raw.lanes))) << 16
    return wide.bits(vector(F32, raw.lanes))


def _is_float(value: Value) -> bool:
    return element_of(value.type) in (F32, F64)


def _floordiv(code: Code, a: Value, b: Value) -> Value:
    if _is_float(a):
        return _float_floordiv(code, a, b)
    # The processor traps on a division by 0, and of the lowest integer by -1, whose quotient wraps around.
    return code.select(b == -1, -a, a // code.select((b == 0) | (b == -1), 1, b))


def _mod(code: Code, a: Value, b: Value) -> Value:
    if not _is_float(a):
        return a - _floordiv(code, a, b) * b
    left = by_lane.remainder(code, a, b)
    return code.select((left != 0.0) & ((left < 0.0) ^ (b < 0.0)), left + b, left)


def _float_floordiv(code: Code, a: Value, b: Value) -> Value:
    """The quotient of what has no remainder, to the nearest: a / b alone may be rounded up to a whole number."""
    left = by_lane.remainder(code, a, b)
    quotient = (a - left) / b
    quotient = code.select((left != 0.0) & ((left < 0.0) ^ (b < 0.0)), quotient - 1.0, quotient)
    whole = code.unary("floor", quotient)
    whole = code.select(quotient - whole > 0.5, whole + 1.0, whole)
    return code.select(b == 0.0, a / b, whole)


def _extremum(choose: Callable[[Code, Value, Value], Value]) -> Callable[[Code, Value, Value], Value]:
    """The smaller or larger; of NaN and a number NaN. `choose` gives its second argument if either is NaN."""

    def extremum(code: Code, a: Value, b: Value) -> Value:
        if not _is_float(a) or isinstance(a.raw, ir.Constant):
            return choose(code, a, b)
        if isinstance(b.raw, ir.Constant):
            return choose(code, b, a)
        return code.select(a == a, choose(code, a, b), a)

    return extremum


def _shift(move: Callable[[Value, Value], Value], beyond: Callable[[Value], Any]) -> Callable[..., Value]:
    """`move` where the count is one of the integer's bits; `beyond` of the value elsewhere, as in torch."""

    def shift(code: Code, a: Value, count: Value) -> Value:
        inside = (count >= 0) & (count < element_of(a.type).width)
        return code.select(inside, move(a, code.select(inside, count, 0)), beyond(a))

    return shift


def _power(code: Code, a: Value, b: Value) -> Value:
    return by_lane.power(code, a, b) if _is_float(a) else _whole_power(code, a, b)


def _whole_power(code: Code, a: Value, b: Value) -> Value:
    """By squaring; to a negative power only 1 and -1 are not 0."""

    def bit(_: Value, result: Value, square: Value, left: Value) -> list[Value]:
        return [code.select((left & 1) != 0, result * square, result), square * square, left >> 1]

    result, _, _ = code.loop(0, element_of(a.type).width, bit, [code.constant(a.type, 1), a, b])
    sign = code.select((b & 1) != 0, a, 1)
    return code.select(b >= 0, result, code.select((a == 1) | (a == -1), sign, 0))


def _largest(code: Code, a: Value) -> Value:
    return code.constant(a.type, 2.0**128 - 2.0**104 if element_of(a.type) is F32 else sys.float_info.max)


def _not(code: Code, a: Value) -> Value:
    return ~a


UNARY: dict[str, Callable[[Code, Value], Value]] = {
    **vectormath.FUNCTIONS,
    **circular.FUNCTIONS,
    **by_lane.FUNCTIONS,
    "not": _not,
    "neg": lambda code, a: -a,
    "abs": lambda code, a: code.unary("fabs", a) if _is_float(a) else code.maximum(a, -a),
    "sqrt": lambda code, a: code.unary("sqrt", a),
    "floor": lambda code, a: code.unary("floor", a),
    "ceil": lambda code, a: code.unary("ceil", a),
    "trunc": lambda code, a: code.unary("trunc", a),
    "round": lambda code, a: code.unary("roundeven", a),
    "signbit": lambda code, a: circular.negative(a),
    "largest": _largest,
}
BINARY: dict[str, Callable[[Code, Value, Value], Value]] = {
    "add": lambda code, a, b: a + b,
    "sub": lambda code, a, b: a - b,
    "mul": lambda code, a, b: a * b,
    "truediv": lambda code, a, b: a / b,
    "floordiv": _floordiv,
    "mod": _mod,
    "fmod": by_lane.remainder,
    "pow": _power,
    "atan2": circular.atan2,
    "hypot": circular.hypot,
    "shl": _shift(lambda a, count: a << count, lambda a: 0),
    "shr": _shift(lambda a, count: a >> count, lambda a: a >> (element_of(a.type).width - 1)),
    "minimum": _extremum(Code.minimum),
    "maximum": _extremum(Code.maximum),
    "eq": lambda code, a, b: a == b,
    "ne": lambda code, a, b: a != b,
    "lt": lambda code, a, b: a < b,
    "le": lambda code, a, b: a <= b,
    "gt": lambda code, a, b: a > b,
    "ge": lambda code, a, b: a >= b,
    "and": lambda code, a, b: a & b,
    "or": lambda code, a, b: a | b,
    "xor": lambda code, a, b: a ^ b,
}


# What is known of a function wherever it is evaluated, whatever tensors hold.

ANYWHERE = dict.fromkeys("bhqk", Interval(0, 1 << 40))


def condition_of(root: Expression) -> Expression | None:
    """The condition that a function is 1 or 0 for, if it is that."""
    return root.args[0] if root.op == "cast" and root.args[0].kind == "bool" else None


def always_finite(root: Expression) -> bool:
    """Whether a function of the place is never NaN or infinite."""
    if any(node.op == "load" for node in walk(root)):
        return False
    found = bounds(root, ANYWHERE)
    return found is not None and max(abs(found.low), abs(found.high)) < MOST_FINITE


# Bounds over a tile, compiled: the same rules as language/interval.py, for what masks are made of.

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
        found = self._table_lookup(where, row, last, exact, _of_dtype(node.value, []) or Interval(0, 1))
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


def _of_dtype(tensor: Tensor, indices: Sequence[Any]) -> Interval | None:
    """Bounds of a captured tensor's ints that hold whatever is written to it."""
    if tensor.dtype == torch.bool or tensor.is_floating_point():
        return None
    whole = torch.iinfo(tensor.dtype)
    return Interval(whole.min, whole.max)


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

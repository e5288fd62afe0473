"""The user's functions as machine code: an expression's values for neighbouring keys.

Every index is kept inside its tensor, whatever the function computes: where torch would raise for an index out of
range, the nearest element is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from pellucid.engines.cpu.expression import by_lane, circular, vectormath
from pellucid.engines.cpu.expression.program import STORED, Numbers, Program, Slot, SlotArguments
from pellucid.engines.cpu.machine.builder import F32, F64, I1, I32, I64, Code, Value, element_of, vector
from pellucid.language import Expression, walk


@dataclass
class Values:
    """Computes expressions lane by lane; what does not depend on the key is computed once, as a scalar.

    Attributes:
        code: the function being written.
        program: the expressions.
        numbers: the types of their ints and floats.
        arguments: where captured tensors lie, by the number of their slot.
        known: what is computed already, by the id of its node.
        offsets: of indices into captured tensors, in elements, 64-bit integers.

    """

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
        return slot.contiguous and slot.whole and is_along_keys(load)

    def rows_of(self, *roots: Expression) -> list[Expression]:
        """The loads that read a row of a captured tensor for each query, its elements key by key."""
        loads = [node for node in walk(*roots) if node.op == "load" and self.lies_along_keys(node)]
        return [load for load in loads if "q" in inputs_of(*load.args)]

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
        slot = self.program.slots[id(load.value)]
        key = (slot.number, dimension, id(load.args[dimension]))
        if key not in self.offsets:
            self.offsets[key] = self._inside(load, dimension) * self.arguments[slot.number].strides[dimension]
        return self.offsets[key]

    def _inside(self, load: Expression, dimension: int) -> Value:
        """An index wrapped if negative and then kept inside its dimension."""
        code, where = self.code, self.arguments[self.program.slots[id(load.value)].number]
        size, wide = where.sizes[dimension], self.known[id(load.args[dimension])].to(I64)
        wrapped = code.select(wide < 0, wide + size, wide)
        return code.minimum(code.maximum(wrapped, 0), size - 1)

    def element(self, load: Expression, dimensions: int, valid: Value | None = None) -> Value:
        """The first dimensions' share in the place that a load reads, were its tensor contiguous; 64-bit integers."""
        sizes = self.arguments[self.program.slots[id(load.value)].number].sizes
        place, stride = self.code.i64(0), self.code.i64(1)
        for dimension in reversed(range(len(load.args))):
            if dimension < dimensions:
                self.value(load.args[dimension], valid)
                inside = self._inside(load, dimension)
                place = inside + place if dimension == len(sizes) - 1 else inside * stride + place
            stride = stride * sizes[dimension]
        return place

    def _loaded(self, raw: Value, node: Expression, slot: Slot) -> Value:
        if slot.dtype == "bool":
            return raw != 0
        if slot.dtype == "bfloat16":
            return bfloat16_to_float(raw).to(self.numbers.floating)
        if slot.dtype == "uint8":
            return Value(self.code, self.code.ir.zext(raw.raw, vector(I32, raw.lanes))).to(self.numbers.integer)
        return raw.to(self.numbers.integer if node.kind == "int" else self.numbers.floating)


def is_along_keys(load: Expression) -> bool:
    """Whether the last index is the key itself, on which no other depends."""
    along = bool(load.args) and load.args[-1].op == "input" and load.args[-1].value == "k"
    return along and not {"k", "score"} & inputs_of(*load.args[:-1])


def inputs_of(*roots: Expression) -> set[str]:
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

"""The body of a function: constants and lanes, memory, loops and branches. What it gives are Values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from pellucid.engines.cpu.machine.builder.types import (
    I1,
    I8,
    I32,
    I64,
    POINTER,
    Number,
    bytes_of,
    element_of,
    is_float,
    lanes_of,
    sized,
    suffix,
    vector,
)
from pellucid.engines.cpu.machine.builder.value import Value


class Code:
    """The body of one function, as it is being written."""

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.module: ir.Module = function.module
        self.entry = function.append_basic_block("entry")
        self.ir = ir.IRBuilder(self.entry)
        self.arguments = [Value(self, argument) for argument in function.args]

    def constant(self, type_: ir.Type, value: Number) -> Value:
        """A number of a type, in every lane."""
        element = element_of(type_)
        one = float(value) if is_float(element) else int(value)
        raw = ir.Constant(element, one)
        return Value(self, ir.Constant(type_, [raw] * lanes_of(type_)) if lanes_of(type_) > 1 else raw)

    def i64(self, value: int) -> Value:
        """A 64-bit integer."""
        return self.constant(I64, value)

    def match(self, *values: Any) -> list[Value]:
        """The values with one type: numbers take the others' type, scalars are spread over lanes."""
        model = max((v for v in values if isinstance(v, Value)), key=lambda v: v.lanes)
        typed = [v if isinstance(v, Value) else self.constant(model.type, v) for v in values]
        return [v if v.lanes == model.lanes else self.spread(v, model.lanes) for v in typed]

    def spread(self, value: Value, lanes: int) -> Value:
        """A scalar in every lane."""
        if lanes == 1 or value.lanes == lanes:
            return value
        type_ = vector(value.type, lanes)
        undefined = ir.Constant(type_, ir.Undefined)
        one = self.ir.insert_element(undefined, value.raw, ir.Constant(I32, 0))
        return Value(self, self.ir.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)))

    def ramp(self, element: ir.Type, lanes: int) -> Value:
        """0, 1, 2, … by lane."""
        numbers = [ir.Constant(element, i) for i in range(lanes)]
        return Value(self, ir.Constant(vector(element, lanes), numbers) if lanes > 1 else numbers[0])

    def shuffle(self, left: Value, right: Value, lanes: Sequence[int]) -> Value:
        """Lanes of two vectors laid end to end."""
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), [ir.Constant(I32, i) for i in lanes])
        return Value(self, self.ir.shuffle_vector(left.raw, right.raw, mask))

    def select(self, condition: Value, yes: Any, no: Any) -> Value:
        """`yes` where the condition holds, else `no`."""
        model = next(v for v in (yes, no) if isinstance(v, Value))
        yes, no = (v if isinstance(v, Value) else self.constant(model.type, v) for v in (yes, no))
        lanes = max(v.lanes for v in (condition, yes, no))
        parts = [self.spread(v, lanes) for v in (condition, yes, no)]
        return Value(self, self.ir.select(*(p.raw for p in parts)))

    def minimum(self, left: Any, right: Any) -> Value:
        """The smaller; for floats, of a NaN and a number whichever costs nothing."""
        a, b = self.match(left, right)
        return self.select(a < b, a, b)

    def maximum(self, left: Any, right: Any) -> Value:
        """The larger; for floats, of a NaN and a number whichever costs nothing."""
        a, b = self.match(left, right)
        return self.select(a > b, a, b)

    def intrinsic(self, name: str, result: ir.Type, *args: Value) -> Value:
        """A call of an LLVM intrinsic by its full name."""
        known = self.module.globals.get(name)
        if known is None:
            known = ir.Function(self.module, ir.FunctionType(result, [a.type for a in args]), name)
        return Value(self, self.ir.call(known, [a.raw for a in args]))

    def fma(self, a: Any, b: Any, c: Any) -> Value:
        """a * b + c, fused where the processor can."""
        a, b, c = self.match(a, b, c)
        return self.intrinsic(f"llvm.fmuladd.{suffix(a.type)}", a.type, a, b, c)

    def unary(self, name: str, value: Value) -> Value:
        """An overloaded intrinsic of one value, such as sqrt or fabs."""
        return self.intrinsic(f"llvm.{name}.{suffix(value.type)}", value.type, value)

    def reduce(self, operation: str, value: Value) -> Value:
        """All lanes combined by add or fmax, pairwise."""
        while value.lanes > 1:
            half = value.lanes // 2
            low = self._part(value, range(half))
            high = self._part(value, range(half, value.lanes))
            value = low + high if operation == "add" else self.maximum(low, high)
        return value

    def _part(self, value: Value, lanes: range) -> Value:
        return value.lane(lanes[0]) if len(lanes) == 1 else self.shuffle(value, value, lanes)

    def any(self, condition: Value) -> Value:
        """Whether the condition holds in any lane."""
        if condition.lanes == 1:
            return condition
        bits = ir.IntType(condition.lanes)
        return Value(self, self.ir.icmp_unsigned("!=", self.ir.bitcast(condition.raw, bits), ir.Constant(bits, 0)))

    def bitmask(self, condition: Value) -> Value:
        """A bit of an int64 for each lane, the first lane's the lowest."""
        bits = self.ir.bitcast(condition.raw, ir.IntType(condition.lanes)) if condition.lanes > 1 else condition.raw
        return Value(self, self.ir.zext(bits, I64))

    def count_bits(self, value: Value) -> Value:
        """How many bits of an int64 are set."""
        return self.intrinsic("llvm.ctpop.i64", I64, value)

    def lowest_bit(self, value: Value) -> Value:
        """The place of the lowest bit that is set in an int64."""
        return self.intrinsic("llvm.cttz.i64", I64, value, self.constant(I1, 1))

    # Memory. An offset counts elements of the given type.

    def at(self, pointer: Value, offset: Any, element: ir.Type = I8) -> Value:
        """The address `offset` elements on."""
        offset = offset.to(I64) if isinstance(offset, Value) else self.i64(offset)
        return Value(self, self.ir.gep(pointer.raw, [offset.raw], source_etype=sized(element)))

    def distance(self, first: Value, second: Value) -> Value:
        """Bytes from one address to another."""
        one, other = (self.ir.ptrtoint(pointer.raw, I64) for pointer in (first, second))
        return Value(self, self.ir.sub(other, one))

    def load(self, pointer: Value, type_: ir.Type, offset: Any = 0, align: int | None = None) -> Value:
        """What lies `offset` elements on; a vector may lie at any element's address.

        Args:
            pointer: an address.
            type_: of what lies there, a scalar or a vector.
            offset: elements of that type's lanes from there, a number or an integer Value.
            align: bytes that the place is a multiple of; an element's size if None.

        """
        element = element_of(type_)
        address = self.at(pointer, offset, element)
        return Value(self, self.ir.load(address.raw, typ=type_, align=align or bytes_of(element)))

    def store(self, pointer: Value, value: Value, offset: Any = 0, align: int | None = None) -> None:
        """Put a value `offset` elements on.

        Args:
            pointer: an address.
            value: a scalar or a vector.
            offset: elements of its type from there, a number or an integer Value.
            align: bytes that the place is a multiple of; an element's size if None.

        """
        element = element_of(value.type)
        self.ir.store(value.raw, self.at(pointer, offset, element).raw, align=align or bytes_of(element))

    def clear(self, pointer: Value, count: Value, element: ir.Type) -> None:
        """Zeros in `count` elements."""
        size = count * bytes_of(element)
        self.intrinsic("llvm.memset.p0.i64", ir.VoidType(), pointer, self.constant(I8, 0), size, self.constant(I1, 0))

    def prefetch(self, pointer: Value, element: ir.Type, offset: Any = 0, cache: int = 2) -> None:
        """Ask for what lies `offset` elements on to be brought to a cache; any address may be asked for.

        Args:
            pointer: an address.
            element: what the offset counts.
            offset: elements from there, a number or an integer Value.
            cache: its level: 1 the nearest, up to 3.

        """
        how = (self.constant(I32, number) for number in (0, 4 - cache, 1))  # for reading, how near, data
        self.intrinsic("llvm.prefetch.p0", ir.VoidType(), self.at(pointer, offset, element), *how)

    def masked_load(self, pointer: Value, type_: ir.Type, mask: Value, offset: Any = 0) -> Value:
        """The lanes where `mask` holds, others 0 and never read.

        Args:
            pointer: an address.
            type_: of what lies there, a scalar or a vector.
            mask: a bit for each lane.
            offset: elements of that type's lanes from there, a number or an integer Value.

        """
        element = element_of(type_)
        address = self.at(pointer, offset, element)
        if lanes_of(type_) == 1:
            return self._scalar_masked_load(address, type_, mask)
        name = f"llvm.masked.load.{suffix(type_)}.p0"
        return self.intrinsic(
            name, type_, address, self.constant(I32, bytes_of(element)), mask, self.constant(type_, 0)
        )

    def _scalar_masked_load(self, address: Value, type_: ir.Type, mask: Value) -> Value:
        result = self.variable(self.constant(type_, 0))
        with self.when(mask):
            result.set(self.load(address, type_))
        return result.get()

    def masked_store(self, pointer: Value, value: Value, mask: Value, offset: Any = 0) -> None:
        """Put the lanes where `mask` holds; others are never touched.

        Args:
            pointer: an address.
            value: a scalar or a vector.
            mask: a bit for each lane.
            offset: elements of its type from there, a number or an integer Value.

        """
        element = element_of(value.type)
        address = self.at(pointer, offset, element)
        if value.lanes == 1:
            with self.when(mask):
                self.store(address, value)
            return
        name = f"llvm.masked.store.{suffix(value.type)}.p0"
        known = self.module.globals.get(name)
        if known is None:
            signature = ir.FunctionType(ir.VoidType(), [value.type, POINTER, I32, mask.type])
            known = ir.Function(self.module, signature, name)
        self.ir.call(known, [value.raw, address.raw, ir.Constant(I32, bytes_of(element)), mask.raw])

    def gather(self, pointer: Value, element: ir.Type, offsets: Value, mask: Value) -> Value:
        """One element for each lane where `mask` holds, others 0 and never read.

        Args:
            pointer: an address.
            element: the type of one element.
            offsets: elements from there, a vector of int64; of one lane, a scalar.
            mask: a bit for each lane.

        Returns:
            A vector of as many elements.

        """
        if offsets.lanes == 1:
            return self.masked_load(pointer, element, mask, offsets)
        type_ = vector(element, offsets.lanes)
        addresses = Value(self, self.ir.gep(pointer.raw, [offsets.raw], source_etype=sized(element)))
        addresses.raw.type = ir.VectorType(POINTER, offsets.lanes)  # llvmlite gives the scalar pointer's type
        zero = self.constant(type_, 0)
        name = f"llvm.masked.gather.{suffix(type_)}.v{offsets.lanes}p0"
        return self.intrinsic(name, type_, addresses, self.constant(I32, bytes_of(element)), mask, zero)

    # Control.

    def loop(
        self,
        start: Any,
        stop: Any,
        body: Callable[..., Sequence[Value] | None],
        carried: Sequence[Value] = (),
        step: int = 1,
    ) -> list[Value]:
        """Run `body(i, *carried)` for i from start to stop; it returns the next carried values. Gives the last ones.

        Args:
            start: the first i, a number (then of 64 bits) or an integer Value.
            stop: where it ends, i being less.
            body: called while the loop is written, with Values; not once if it is known that the loop does not run.
            carried: the first values carried.
            step: how much i grows, at least 1.

        """
        start, stop = (x if isinstance(x, Value) else self.i64(x) for x in (start, stop))
        times = _times(start, stop, step)
        if times is not None and times < 2:
            return list(body(start, *carried) or ()) if times else list(carried)
        before = self.ir.block
        head, inside, after = (self.function.append_basic_block(name) for name in ("loop", "body", "done"))
        self.ir.branch(head)
        self.ir.position_at_end(head)
        index = self.ir.phi(start.type)
        phis = [self.ir.phi(value.type) for value in carried]
        self.ir.cbranch(self.ir.icmp_signed("<", index, stop.raw), inside, after)
        self.ir.position_at_end(inside)
        results = body(Value(self, index), *(Value(self, phi) for phi in phis)) or ()
        following = self.ir.add(index, ir.Constant(start.type, step))
        for phi, initial, last in ((index, start.raw, following), *_triples(phis, carried, results)):
            phi.add_incoming(initial, before)
            phi.add_incoming(last, self.ir.block)
        self.ir.branch(head)
        self.ir.position_at_end(after)
        return [Value(self, phi) for phi in phis]

    def until(self, holds: Callable[[], Value]) -> None:
        """Ask again and again whether something holds that another thread brings about, letting others run between."""
        asking, waiting, after = (self.function.append_basic_block(name) for name in ("ask", "wait", "held"))
        self.ir.branch(asking)
        self.ir.position_at_end(asking)
        self.ir.cbranch(holds().raw, after, waiting)
        self.ir.position_at_end(waiting)
        self.intrinsic("sched_yield", I32)
        self.ir.branch(asking)
        self.ir.position_at_end(after)

    @contextmanager
    def when(self, condition: Value) -> Any:
        """Run what is written inside the `with` only if the condition holds."""
        with self.ir.if_then(condition.raw):
            yield

    @contextmanager
    def either(self, condition: Value) -> Any:
        """Two bodies, one for each outcome: what it gives is a context manager for each, in that order."""
        with self.ir.if_else(condition.raw) as branches:
            yield branches

    def variable(self, initial: Value) -> Variable:
        """A mutable scalar, for what is set in a branch."""
        with self.ir.goto_entry_block():
            slot = self.ir.alloca(initial.type)
        slot.type = POINTER  # llvmlite's own says of what
        variable = Variable(self, slot, initial.type)
        variable.set(initial)
        return variable


class Variable:
    """A mutable value; the optimiser turns it back into SSA."""

    def __init__(self, code: Code, slot: ir.Value, type_: ir.Type) -> None:
        self.code, self.slot, self.type = code, slot, type_

    @property
    def place(self) -> Value:
        """Where it lies in memory."""
        return Value(self.code, self.slot)

    def get(self) -> Value:
        """The value now."""
        return Value(self.code, self.code.ir.load(self.slot, typ=self.type))

    def set(self, value: Value) -> None:
        """Change it."""
        self.code.ir.store(value.raw, self.slot)


def _times(start: Value, stop: Value, step: int) -> int | None:
    """How often a loop runs, if that is known when it is written."""
    if isinstance(start.raw, ir.Constant) and isinstance(stop.raw, ir.Constant):
        return len(range(start.raw.constant, stop.raw.constant, step))
    return None


def _triples(phis: Any, carried: Any, results: Any) -> list[tuple[Any, Any, Any]]:
    return [(phi, initial.raw, last.raw) for phi, initial, last in zip(phis, carried, results, strict=True)]

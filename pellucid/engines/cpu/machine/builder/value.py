"""A value of the machine, a scalar or a vector, with Python's operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from pellucid.engines.cpu.machine.builder.types import I32, element_of, is_float, lanes_of, vector

if TYPE_CHECKING:
    from pellucid.engines.cpu.machine.builder.code import Code


class Value:
    """An SSA value with Python's operators."""

    __slots__ = ("code", "raw")

    def __init__(self, code: Code, raw: ir.Value) -> None:
        self.code, self.raw = code, raw

    @property
    def type(self) -> ir.Type:
        """The machine type."""
        return self.raw.type

    @property
    def lanes(self) -> int:
        """How many lanes."""
        return lanes_of(self.raw.type)

    def _binary(self, other: Any, for_float: str, for_int: str) -> Value:
        left, right = self.code.match(self, other)
        return Value(
            self.code, getattr(self.code.ir, for_float if is_float(left.type) else for_int)(left.raw, right.raw)
        )

    def _compare(self, other: Any, operator: str) -> Value:
        left, right = self.code.match(self, other)
        emit = self.code.ir.fcmp_ordered if is_float(left.type) else self.code.ir.icmp_signed
        if is_float(left.type) and operator == "!=":
            emit = self.code.ir.fcmp_unordered
        return Value(self.code, emit(operator, left.raw, right.raw))

    def __add__(self, other: Any) -> Value:
        return self._binary(other, "fadd", "add")

    def __sub__(self, other: Any) -> Value:
        return self._binary(other, "fsub", "sub")

    def __mul__(self, other: Any) -> Value:
        return self._binary(other, "fmul", "mul")

    def __truediv__(self, other: Any) -> Value:
        return self._binary(other, "fdiv", "sdiv")

    def __rsub__(self, other: Any) -> Value:
        left, right = self.code.match(self, other)
        return right - left

    def __rtruediv__(self, other: Any) -> Value:
        left, right = self.code.match(self, other)
        return right / left

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: Any) -> Value:
        """Rounds down, as in Python and torch."""
        left, right = self.code.match(self, other)
        quotient = Value(self.code, self.code.ir.sdiv(left.raw, right.raw))
        remainder = left - quotient * right
        inexact = (remainder != 0) & ((remainder ^ right) < 0)
        return quotient - inexact.extended(left.type)

    def __mod__(self, other: Any) -> Value:
        """Has the divisor's sign, as in Python and torch."""
        left, right = self.code.match(self, other)
        return left - (left // right) * right

    def __and__(self, other: Any) -> Value:
        return self._binary(other, "", "and_")

    def __or__(self, other: Any) -> Value:
        return self._binary(other, "", "or_")

    def __xor__(self, other: Any) -> Value:
        return self._binary(other, "", "xor")

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __lshift__(self, other: Any) -> Value:
        return self._binary(other, "", "shl")

    def __rshift__(self, other: Any) -> Value:
        return self._binary(other, "", "ashr")

    def __invert__(self) -> Value:
        return Value(self.code, self.code.ir.not_(self.raw))

    def __neg__(self) -> Value:
        return Value(self.code, self.code.ir.fneg(self.raw)) if is_float(self.type) else 0 - self

    def __lt__(self, other: Any) -> Value:
        return self._compare(other, "<")

    def __le__(self, other: Any) -> Value:
        return self._compare(other, "<=")

    def __gt__(self, other: Any) -> Value:
        return self._compare(other, ">")

    def __ge__(self, other: Any) -> Value:
        return self._compare(other, ">=")

    def __eq__(self, other: Any) -> Value:  # type: ignore[override]
        return self._compare(other, "==")

    def __ne__(self, other: Any) -> Value:  # type: ignore[override]
        return self._compare(other, "!=")

    __hash__ = None  # type: ignore[assignment]

    def bits(self, type_: ir.Type) -> Value:
        """The same bits as another type of the same size."""
        return Value(self.code, self.code.ir.bitcast(self.raw, type_))

    def unsigned(self, type_: ir.Type) -> Value:
        """Widened to another integer type, the new bits 0."""
        return Value(self.code, self.code.ir.zext(self.raw, vector(type_, self.lanes)))

    def extended(self, type_: ir.Type) -> Value:
        """A bool as 0 or 1 of an integer type."""
        return Value(self.code, self.code.ir.zext(self.raw, type_))

    def to(self, element: ir.Type) -> Value:
        """Converted to another element type: rounded to nearest, or towards zero from float to int."""
        own, wanted, emit = element_of(self.type), vector(element, self.lanes), self.code.ir
        if str(own) == str(element):
            return self
        if isinstance(own, ir.IntType) and isinstance(element, ir.IntType):
            convert = emit.trunc if own.width > element.width else emit.zext if own.width == 1 else emit.sext
        elif isinstance(own, ir.IntType):
            convert = emit.uitofp if own.width == 1 else emit.sitofp
        elif isinstance(element, ir.IntType):
            convert = emit.fptosi
        else:
            convert = emit.fptrunc if _WIDTH[str(own)] > _WIDTH[str(element)] else emit.fpext
        return Value(self.code, convert(self.raw, wanted))

    def lane(self, index: int) -> Value:
        """One lane."""
        return Value(self.code, self.code.ir.extract_element(self.raw, ir.Constant(I32, index)))


_WIDTH = {"half": 16, "bfloat": 16, "float": 32, "double": 64}

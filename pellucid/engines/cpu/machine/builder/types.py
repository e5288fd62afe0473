"""The machine types, and what is asked of them."""

from __future__ import annotations

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()


class _BFloat16(ir.types._BaseFloatType):
    """LLVM's bfloat, which llvmlite's types lack. Memory and arithmetic use its bits, in an int16."""

    null = "0.0"
    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"

    def format_constant(self, value: float) -> str:
        """Constants of this type are never needed."""
        raise TypeError("a bfloat16 constant was asked for")


_BFloat16._create_instance()
BF16 = _BFloat16()
POINTER = ir.PointerType()
Number = bool | int | float


def vector(element: ir.Type, lanes: int) -> ir.Type:
    """The type of `lanes` elements; one lane is a scalar."""
    return element if lanes == 1 else ir.VectorType(element, lanes)


def element_of(type_: ir.Type) -> ir.Type:
    """The type of one lane."""
    return type_.element if isinstance(type_, ir.VectorType) else type_


def lanes_of(type_: ir.Type) -> int:
    """How many lanes a type has; a scalar has one."""
    return type_.count if isinstance(type_, ir.VectorType) else 1


def is_float(type_: ir.Type) -> bool:
    """Whether a type's lanes are floating-point numbers."""
    return isinstance(element_of(type_), ir.types._BaseFloatType)


def sized(element: ir.Type) -> ir.Type:
    """The type that a place in memory is counted in: a bool has a byte."""
    return I8 if str(element) == "i1" else element


def bytes_of(element: ir.Type) -> int:
    """Bytes of one element in memory."""
    return {"half": 2, "float": 4, "double": 8, "ptr": 8}.get(str(element)) or max(1, element.width // 8)


def suffix(type_: ir.Type) -> str:
    """A type's name at the end of an overloaded intrinsic's."""
    element = element_of(type_)
    name = {"half": "f16", "float": "f32", "double": "f64"}.get(str(element)) or f"i{element.width}"
    return f"v{lanes_of(type_)}{name}" if lanes_of(type_) > 1 else name

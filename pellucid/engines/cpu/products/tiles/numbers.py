"""Elements of inputs and outputs as numbers to compute with."""

from __future__ import annotations

from pellucid.engines.cpu.expression.values import bfloat16_to_float
from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine.builder import I16, I32, Code, Value, vector


def load_numbers(code: Code, spec: Spec, source: Value, offset: Value, lanes: int, valid: Value | None = None) -> Value:
    """`lanes` elements of an input as numbers to compute with; where not `valid`, 0 and not read.

    Args:
        code: the function being written.
        spec: says how the input's elements lie in memory, and what is computed with.
        source: an address in the input.
        offset: elements from there, a 64-bit integer of the kernel.
        lanes: how many elements; one gives a scalar.
        valid: which of them exist, a bit each; None if all do.

    Returns:
        A vector of `spec.number`.

    """
    type_ = vector(spec.storage, lanes)
    raw = code.load(source, type_, offset) if valid is None else code.masked_load(source, type_, valid, offset)
    return bfloat16_to_float(raw) if spec.dtype == "bfloat16" else raw.to(spec.number)


def store_numbers(
    code: Code, spec: Spec, target: Value, numbers: Value, offset: Value | int, valid: Value | None
) -> None:
    """Put numbers into an output, rounded to its dtype.

    Args:
        code: the function being written.
        spec: says how the output's elements lie in memory.
        target: an address in the output.
        numbers: a vector of `spec.number`.
        offset: elements from there.
        valid: which lanes are written, a bit each; None for all.

    """
    raw = float_to_bfloat16(code, numbers) if spec.output is I16 else numbers.to(spec.output)
    if valid is None:
        code.store(target, raw, offset)
    else:
        code.masked_store(target, raw, valid, offset)


def float_to_bfloat16(code: Code, x: Value) -> Value:
    """The nearest bfloat16's bits in an int16, ties to even; NaN stays NaN."""
    bits = x.bits(vector(I32, x.lanes))
    # A logical shift, so that the sign does not spread.
    top = Value(code, code.ir.lshr(bits.raw, code.constant(bits.type, 16).raw))
    rounded = bits + (top & 1) + 0x7FFF
    shifted = Value(code, code.ir.lshr(rounded.raw, code.constant(bits.type, 16).raw))
    return code.select(x == x, shifted, 0x7FC0).to(I16)

"""Register-tiled products: the two matrix products of attention, and the packing of what they read."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from pellucid.engines.cpu.builder import I16, I32, Code, Value, vector
from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.program import bfloat16_to_float

UNROLL = 2


def load_numbers(code: Code, spec: Spec, source: Value, offset: Value, lanes: int, valid: Value | None = None) -> Value:
    """`lanes` elements of an input as numbers to compute with; where not `valid`, 0 and not read."""
    type_ = vector(spec.storage, lanes)
    raw = code.load(source, type_, offset) if valid is None else code.masked_load(source, type_, valid, offset)
    return bfloat16_to_float(raw) if spec.dtype == "bfloat16" else raw.to(spec.number)


def store_numbers(
    code: Code, spec: Spec, target: Value, numbers: Value, offset: Value | int, valid: Value | None
) -> None:
    """Put numbers into an output, rounded to its dtype."""
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


def rounded(count: Value, multiple: int) -> Value:
    """`count`, up to a whole multiple."""
    return (count + (multiple - 1)) / multiple * multiple


def columns(width: int, lanes: int) -> list[tuple[int, int]]:
    """Where whole vectors of a row begin, and how many elements of each exist."""
    return [(start, min(lanes, width - start)) for start in range(0, width, lanes)]


def first_lanes(code: Code, lanes: int, count: int) -> Value | None:
    """A mask of the first `count` lanes, or None for all."""
    return None if count == lanes else code.ramp(I32, lanes) < count


def pack_rows(
    code: Code, spec: Spec, source: Value, stride: Value, width: int, count: Value, target: Value, target_stride: int,
    scale: Value | None = None,
) -> None:  # fmt: skip
    """Copy `count` rows of an input, as numbers, each filled up with zeros to `target_stride`."""

    def row(i: Value) -> None:
        for start, length in columns(width, spec.lanes):
            valid = first_lanes(code, spec.lanes, length)
            numbers = load_numbers(code, spec, source, i * stride + start, spec.lanes, valid)
            numbers = numbers if scale is None else numbers * scale
            if target_stride >= start + spec.lanes:
                code.store(target, numbers, i * target_stride + start)
            else:
                assert valid is not None
                code.masked_store(target, numbers, valid, i * target_stride + start)

    code.loop(0, count, row)


def zero_rows(code: Code, spec: Spec, target: Value, start: Value, stop: Value, width: int) -> None:
    """Zeros in rows start … stop - 1 of packed numbers."""
    zero = code.constant(spec.number, 0.0)
    code.loop(start * width, stop * width, lambda i: code.store(target, zero, i))


def pack_keys(code: Code, spec: Spec, source: Value, stride: Value, count: Value, target: Value) -> None:
    """Transpose `count` keys into panels, [panel][head_dim][keys of a panel]; keys that do not exist are zeros."""
    lanes, panel = spec.lanes, spec.panel
    groups = ((count + (panel - 1)) / panel) * spec.vectors

    def group(g: Value) -> None:
        first = g * lanes
        column = target_of_group(g)
        with code.either(first + lanes <= count) as (whole, ragged):
            with whole:
                _transpose(code, spec, code.at(source, first * stride, spec.storage), stride, column)
            with ragged:
                _copy_ragged(code, spec, source, stride, first, count, column)

    def target_of_group(g: Value) -> Value:
        panels = (g / spec.vectors) * (panel * spec.head_dim)
        return code.at(target, panels + (g - (g / spec.vectors) * spec.vectors) * lanes, spec.number)

    code.loop(0, groups, group)


def _transpose(code: Code, spec: Spec, source: Value, stride: Value, column: Value) -> None:
    """One vector's worth of keys, all of head_dim: blocks of lanes x lanes turned in registers."""
    lanes, panel, whole = spec.lanes, spec.panel, spec.head_dim // spec.lanes * spec.lanes

    def block(dim: Value) -> None:
        rows = [load_numbers(code, spec, source, stride * i + dim, lanes) for i in range(lanes)]
        for i, turned in enumerate(transposed(code, rows)):
            code.store(column, turned, (dim + i) * panel)

    code.loop(0, whole, block, step=lanes)
    for i in range(lanes if whole < spec.head_dim else 0):

        def element(dim: Value, i: int = i) -> None:
            code.store(column, load_numbers(code, spec, source, stride * i + dim, 1), dim * panel + i)

        code.loop(whole, spec.head_dim, element)


def _copy_ragged(
    code: Code, spec: Spec, source: Value, stride: Value, first: Value, count: Value, column: Value
) -> None:
    def key(i: Value) -> None:
        exists = first + i < count

        def element(dim: Value) -> None:
            number = code.variable(code.constant(spec.number, 0.0))
            with code.when(exists):
                number.set(load_numbers(code, spec, source, (first + i) * stride + dim, 1))
            code.store(column, number.get(), dim * spec.panel + i)

        code.loop(0, spec.head_dim, element)

    code.loop(0, spec.lanes, key)


def transposed(code: Code, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square block of vectors: log2(lanes) rounds of exchanges between pairs of rows (Eklundh 1972)."""
    rows, lanes = list(rows), len(rows)
    distance = 1
    while distance < lanes:
        low = [lane if not lane & distance else lane - distance + lanes for lane in range(lanes)]
        high = [lane + distance if not lane & distance else lane + lanes for lane in range(lanes)]
        for i in (i for i in range(lanes) if not i & distance):
            a, b = rows[i], rows[i + distance]
            rows[i], rows[i + distance] = code.shuffle(a, b, low), code.shuffle(a, b, high)
        distance *= 2
    return rows


def sums_by_lane(code: Code, vectors: Sequence[Value]) -> Value:
    """The sum over the lanes of the i-th vector in lane i, for as many vectors as lanes."""
    vectors, lanes = list(vectors), len(vectors)
    distance = 1
    while distance < lanes:
        low = [lane if not lane & distance else lane - distance + lanes for lane in range(lanes)]
        high = [lane + distance if not lane & distance else lane + lanes for lane in range(lanes)]
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [code.shuffle(a, b, low) + code.shuffle(a, b, high) for a, b in pairs]
        distance *= 2
    return vectors[0]


def product(
    code: Code, type_: ir.Type, accumulators: list[list[Value]], length: Value | int,
    left: Value, left_stride: int, right: Value, right_stride: int, unroll: int = UNROLL,
) -> list[list[Value]]:  # fmt: skip
    """accumulators[row][v] + sum over i of left[row * left_stride + i] * right[i * right_stride + v * lanes].

    The register tile of both products: a few rows times a few vectors stay in registers all the way.
    """
    rows, vectors = len(accumulators), len(accumulators[0])
    lanes = accumulators[0][0].lanes
    element = type_.element if lanes > 1 else type_

    def step(i: Value, *flat: Value) -> list[Value]:
        sums = list(flat)
        for u in range(unroll):
            operands = [code.load(right, type_, (i + u) * right_stride + v * lanes) for v in range(vectors)]
            for row in range(rows):
                factor = code.spread(code.load(left, element, i + (u + row * left_stride)), lanes)
                for v in range(vectors):
                    sums[row * vectors + v] = code.fma(factor, operands[v], sums[row * vectors + v])
        return sums

    flat = code.loop(0, length, step, [a for row in accumulators for a in row], step=unroll)
    return [flat[row * vectors : (row + 1) * vectors] for row in range(rows)]



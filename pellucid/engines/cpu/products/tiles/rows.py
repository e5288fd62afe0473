"""Rows, a vector at a time: where they begin, and packing them into scratch memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine.builder import I32, Code, Value
from pellucid.engines.cpu.products.tiles.numbers import load_numbers


def rounded(count: Value, multiple: int) -> Value:
    """`count`, up to a whole multiple."""
    return (count + (multiple - 1)) / multiple * multiple


def columns(width: int, lanes: int) -> list[tuple[int, int]]:
    """Where whole vectors of a row begin, and how many elements of each exist."""
    return [(start, min(lanes, width - start)) for start in range(0, width, lanes)]


def in_steps(
    code: Code, width: int, step: int, use: Callable[..., Sequence[Value] | None], carried: Sequence[Value] = ()
) -> Sequence[Value]:
    """Run `use(start, count, *carried)` for `step` columns of a row at a time, and at last for those that are left.

    What it writes is compiled once for each count. Gives the last carried values.

    Args:
        code: the function being written.
        width: columns of the row.
        step: how many at a time.
        use: given the first column, a 64-bit integer of the kernel, and their count, a number known as it is written;
            gives the next carried values.
        carried: what `use` is given first.

    """
    whole = width // step * step
    carried = code.loop(0, whole, lambda start, *now: use(start, step, *now), carried, step=step)
    return carried if whole == width else use(code.i64(whole), width - whole, *carried) or ()


def first_lanes(code: Code, lanes: int, count: int) -> Value | None:
    """A mask of the first `count` lanes, or None for all."""
    return None if count == lanes else code.ramp(I32, lanes) < count


def pack_rows(
    code: Code, spec: Spec, source: Value, stride: Value, width: int, count: Value, target: Value, target_stride: int,
    scale: Value | None = None,
) -> None:  # fmt: skip
    """Copy `count` rows of an input, as numbers, each filled up with zeros to `target_stride`.

    Args:
        code: the function being written.
        spec: says how the input's elements lie in memory, and what is computed with.
        source: the address of the first row.
        stride: elements from one row to the next, a 64-bit integer of the kernel.
        width: elements of a row.
        count: how many rows, a 64-bit integer.
        target: the address in scratch memory that they are copied to.
        target_stride: numbers from one row to the next there. What is beyond the last whole vector is not written.
        scale: a vector that the numbers are multiplied by, if they are.

    """

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
    """Zeros in rows start … stop - 1 of packed words.

    Args:
        code: the function being written.
        spec: says how large a word is.
        target: the address in scratch memory of row 0.
        start: the first row, a 64-bit integer of the kernel, as `stop`.
        stop: the row after the last.
        width: words of a row.

    """
    code.clear(code.at(target, start * width, spec.number), (stop - start) * width, spec.number)

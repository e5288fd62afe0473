"""Lanes exchanged between vectors: turned, joined, combined across rows, sorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from pellucid.engines.cpu.machine.builder import F32, Code, Value, element_of, lanes_of, vector


def transposed(code: Code, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square block of vectors, by log2(lanes) rounds of exchanges between pairs (Eklundh 1972).

    Of fewer vectors than lanes, the squares that lie side by side, each by itself.
    """
    rows, lanes = list(rows), rows[0].lanes
    distance = 1
    while distance < len(rows):
        low = [lane if not lane & distance else lane - distance + lanes for lane in range(lanes)]
        high = [lane + distance if not lane & distance else lane + lanes for lane in range(lanes)]
        for i in (i for i in range(len(rows)) if not i & distance):
            a, b = rows[i], rows[i + distance]
            rows[i], rows[i + distance] = code.shuffle(a, b, low), code.shuffle(a, b, high)
        distance *= 2
    return rows


def load_transposed(code: Code, type_: ir.Type, source: Value, stride: int) -> list[Value]:
    """The columns of a square block of memory, its rows `stride` numbers apart.

    Parts of 128 bits are put together as they are loaded, which leaves half of the exchanges to be done.

    Args:
        code: the function being written.
        type_: a vector of as many numbers as the square has rows.
        source: the address of the first row.
        stride: from one row to the next.

    Returns:
        A vector for each column.

    """
    lanes, element = lanes_of(type_), element_of(type_)
    part = min(lanes, 4 if element == F32 else 2)
    columns: list[Value] = []
    for column in range(0, lanes, part):
        rows = [
            joined(
                code,
                [
                    code.load(source, vector(element, part), (top + i) * stride + column)
                    for top in range(0, lanes, part)
                ],
            )
            for i in range(part)
        ]
        columns += transposed(code, rows)
    return columns


def joined(code: Code, parts: Sequence[Value]) -> Value:
    """Vectors laid end to end."""
    width, lanes = parts[0].lanes, parts[0].lanes * len(parts)
    whole = code.shuffle(parts[0], parts[0], [min(lane, width) for lane in range(lanes)])
    for i, part in enumerate(parts[1:], 1):
        wide = code.shuffle(part, part, [min(lane, width) for lane in range(lanes)])
        own = range(i * width, (i + 1) * width)
        whole = code.shuffle(whole, wide, [lanes + lane - i * width if lane in own else lane for lane in range(lanes)])
    return whole


def across_rows(code: Code, vectors: Sequence[Value], combine: Callable[[Value, Value], Value]) -> Value:
    """All lanes of the i-th vector combined, in lane i, for as many vectors as lanes."""
    vectors, lanes = list(vectors), len(vectors)
    distance = 1
    while distance < lanes:
        low = [lane if not lane & distance else lane - distance + lanes for lane in range(lanes)]
        high = [lane + distance if not lane & distance else lane + lanes for lane in range(lanes)]
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [combine(code.shuffle(a, b, low), code.shuffle(a, b, high)) for a, b in pairs]
        distance *= 2
    return vectors[0]


def descending(code: Code, vectors: Sequence[Value]) -> list[Value]:
    """The vectors' numbers sorted lane by lane, the largest first, by Batcher's odd-even merges (1968)."""
    vectors, count = list(vectors), len(vectors)

    def order(i: int, j: int) -> None:
        vectors[i], vectors[j] = code.maximum(vectors[i], vectors[j]), code.minimum(vectors[i], vectors[j])

    size = 1
    while size < count:
        distance = size
        while distance:
            for start in range(distance % size, count - distance, 2 * distance):
                for i in range(start, min(start + distance, count - distance)):
                    if i // (2 * size) == (i + distance) // (2 * size):
                        order(i, i + distance)
            distance //= 2
        size *= 2
    return vectors

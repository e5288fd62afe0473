"""How many bytes a second are read: every thread adds up its part of a buffer, again and again.

A buffer twice as large as the last cache is read from memory, a small one from the caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from benchmarks.limits.kernel import LINE, function, least_seconds, runner
from pellucid.engines.cpu.machine.builder import F32, F64, I64, POINTER, Code, Value, vector
from pellucid.engines.cpu.machine.target import host

VECTORS = 16  # read at each step, so that many lines are on their way
LEAST_READ = 2**28  # bytes of one timing: a small buffer is read several times
TRIES = 5


def read(sizes: Iterable[int], workers: int) -> dict[int, float]:
    """Bytes a second by the size of the buffer in bytes, on all the threads together."""
    sizes = list(sizes)
    buffer = torch.ones(max(sizes), dtype=torch.uint8)
    return {size: _read(buffer, size, workers) for size in sizes}


class Reader:
    """Reads `size` bytes of each buffer, or all, on all the threads, that many times, when it is called.

    `amount` bytes in all; the rest of a division into whole steps of each thread is left out.
    """

    def __init__(self, buffers: list[torch.Tensor], workers: int, size: int | None = None, passes: int = 1) -> None:
        self.buffers, self.amount = buffers, 0
        self.runs: list[Callable[[], None]] = []
        step = VECTORS * host().vector_bytes
        kernel = function("read_buffer", _body, host())
        for buffer in buffers:
            steps = (size or buffer.nbytes) // workers // step
            self.amount += steps * step * workers * passes
            self.runs.append(runner(kernel, [buffer.data_ptr(), steps, passes], workers))

    def __call__(self) -> None:
        """Read them."""
        for run in self.runs:
            run()


def _read(buffer: torch.Tensor, size: int, workers: int) -> float:
    reader = Reader([buffer], workers, size, max(1, LEAST_READ // size))
    return reader.amount / least_seconds(reader, TRIES)


def _body(code: Code) -> None:
    begin, _, arguments = code.arguments
    lanes = host().lanes()
    type_ = vector(F32, lanes)
    buffer = Value(code, code.ir.inttoptr(code.load(arguments, I64).raw, POINTER))
    steps = code.load(arguments, I64, 1)
    start = begin * steps * VECTORS * lanes

    def add(step: Value, *sums: Value) -> list[Value]:
        place = start + step * VECTORS * lanes
        return [sum_ + code.load(buffer, type_, place + i * lanes) for i, sum_ in enumerate(sums)]

    zeros = [code.constant(type_, 0.0)] * VECTORS
    sums = code.loop(0, code.load(arguments, I64, 2), lambda _, *sums: code.loop(0, steps, add, sums), zeros)
    total = sums[0]
    for sum_ in sums[1:]:
        total = total + sum_
    code.store(arguments, code.reduce("add", total).to(F64).bits(I64), (begin + 1) * LINE)

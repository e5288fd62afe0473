"""Running a small kernel of one's own on the engine's builder, compiler and threads, and timing it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

from llvmlite import ir

from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine import threads
from pellucid.engines.cpu.machine.builder import I64, POINTER, Code
from pellucid.engines.cpu.machine.target import Target

LINE = 8  # int64 of a cache line: every thread's result has a line of its own


def function(symbol: str, body: Callable[[Code], None], target: Target) -> compiler.Loaded:
    """The kernel `void symbol(int64 begin, int64 end, int64 *arguments)`, whose body is what `body` writes."""

    def emit(module: ir.Module) -> None:
        code = Code(ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64, POINTER]), symbol))
        body(code)
        code.ir.ret_void()

    return compiler.function(symbol, f"benchmark {symbol}", emit, target)


def runner(kernel: compiler.Loaded, arguments: list[int], workers: int) -> Callable[[], None]:
    """Runs the kernel on `workers` threads."""
    lines = (ctypes.c_int64 * ((1 + workers) * LINE))(*arguments)
    return lambda: threads.run(kernel.address, ctypes.addressof(lines), workers)


def least_seconds(run: Callable[[], None], tries: int) -> float:
    """The shortest of some runs: a limit is what the machine does when nothing disturbs it."""
    best = float("inf")
    for _ in range(tries):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best

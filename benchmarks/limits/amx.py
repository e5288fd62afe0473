"""How many operations a second the matrix unit of some Intel processors (AMX) does, in bfloat16.

Its tiles must be asked for from the system, and configured on every thread; they hold 16 rows of 64 bytes, and one
instruction multiplies 16 × 32 by 32 × 16 numbers.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import replace
from pathlib import Path

import torch
from llvmlite import ir

from benchmarks.limits.kernel import function, least_seconds, runner
from pellucid.engines.cpu.machine.builder import I8, I64, POINTER, Code, Value
from pellucid.engines.cpu.machine.target import Target, host

STEPS = 1_000_000
TRIES = 5
SUMS = 4  # tiles 0 to 3 are summed in, 4 and 5 times 6 and 7
FLOPS = 2 * 16 * 16 * 32
ROWS, ROW_BYTES = 16, 64
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18  # Linux on x86-64


def bfloat16(workers: int) -> float | None:
    """FLOP/s on all the threads together; None where the processor has no such unit, or it may not be used."""
    if not _present() or not _permitted():
        return None
    target = _with_tiles(host())
    configuration = _configuration()
    kernel = function("peak_amx", _body, target)
    arguments = [configuration.data_ptr(), STEPS]
    runner(kernel, [configuration.data_ptr(), STEPS // 10], workers)()
    seconds = least_seconds(runner(kernel, arguments, workers), TRIES)
    return STEPS * SUMS * FLOPS * workers / seconds


def _body(code: Code) -> None:
    arguments = code.arguments[2]
    configuration = Value(code, code.ir.inttoptr(code.load(arguments, I64).raw, POINTER))
    _call(code, "llvm.x86.ldtilecfg", configuration)
    for tile in range(8):
        _call(code, "llvm.x86.tilezero", _number(tile))
    steps = code.load(arguments, I64, 1)

    def multiply(_: Value) -> None:
        for sum_ in range(SUMS):
            _call(code, "llvm.x86.tdpbf16ps", _number(sum_), _number(4 + sum_ % 2), _number(6 + sum_ // 2))

    code.loop(0, steps, multiply)
    _call(code, "llvm.x86.tilerelease")


def _number(value: int) -> ir.Constant:
    """A tile's number, part of the instruction."""
    return ir.Constant(I8, value)


def _call(code: Code, name: str, *args: Value | ir.Constant) -> None:
    """An intrinsic that returns nothing."""
    raw = [arg.raw if isinstance(arg, Value) else arg for arg in args]
    known = code.module.globals.get(name)
    if known is None:
        known = ir.Function(code.module, ir.FunctionType(ir.VoidType(), [arg.type for arg in raw]), name)
    code.ir.call(known, raw)


def _configuration() -> torch.Tensor:
    """The 64 bytes that say that every tile has 16 rows of 64 bytes: palette 1, widths from byte 16, rows from 48."""
    configuration = torch.zeros(64, dtype=torch.uint8)
    configuration[0] = 1
    configuration[16:32].view(torch.int16)[:8] = ROW_BYTES
    configuration[48:56] = ROWS
    return configuration


def _with_tiles(target: Target) -> Target:
    return replace(target, features=f"{target.features},+amx-tile,+amx-bf16".lstrip(","))


def _present() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\nflags")[2].partition("\n")[0].split()
    except OSError:
        return False
    return platform.machine() == "x86_64" and {"amx_tile", "amx_bf16"} <= set(flags)


def _permitted() -> bool:
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0

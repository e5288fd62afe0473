"""How many floating-point operations a second the vector units do: chains of multiply-adds, all in registers."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from benchmarks.limits.kernel import LINE, function, least_seconds, runner
from pellucid.engines.cpu.machine.builder import F32, F64, I32, I64, Code, Value, vector
from pellucid.engines.cpu.machine.target import Target, host
from pellucid.engines.cpu.products.dots import DOT

STEPS = 4_000_000
TRIES = 5
Step = Callable[[Code, Value, Value], Value]  # (code, factor, accumulator) -> accumulator


def float32(workers: int) -> float:
    """FLOP/s of fused multiply-adds in float32, on all the threads together."""
    return _peak("peak_float32", F32, 4, lambda code, x, sum_: code.fma(x, x, sum_), 2, workers)


def float64(workers: int) -> float:
    """The same in float64."""
    return _peak("peak_float64", F64, 8, lambda code, x, sum_: code.fma(x, x, sum_), 2, workers)


def bfloat16_dot(workers: int) -> float | None:
    """The same of the dot product of bfloat16 pairs, two multiply-adds a lane; None where there is none."""
    return _peak("peak_bfloat16", F32, 4, _dot, 4, workers) if host().bf16_dot else None


def _dot(code: Code, factor: Value, accumulator: Value) -> Value:
    pairs = factor.bits(vector(I32, factor.lanes))
    return code.intrinsic(DOT, accumulator.type, accumulator, pairs, pairs)


def _peak(symbol: str, element: ir.Type, size: int, step: Step, flops_a_lane: int, workers: int) -> float:
    target = host()
    lanes, chains = target.lanes(size), _chains(target)
    type_ = vector(element, lanes)

    def body(code: Code) -> None:
        begin, _, arguments = code.arguments
        factor = code.spread(code.load(arguments, I64).to(element), lanes)  # 0, which the compiler does not know
        sums = [code.constant(type_, i) for i in range(chains)]
        steps = code.load(arguments, I64, 1)
        sums = code.loop(0, steps, lambda _, *chain: [step(code, factor, sum_) for sum_ in chain], sums)
        total = sums[0]
        for sum_ in sums[1:]:
            total = total + sum_
        code.store(arguments, code.reduce("add", total).to(F64).bits(I64), (begin + 1) * LINE)

    kernel = function(symbol, body, target)
    runner(kernel, [0, STEPS // 10], workers)()  # the clock rises, the threads start
    seconds = least_seconds(runner(kernel, [0, STEPS], workers), TRIES)
    return STEPS * chains * lanes * flops_a_lane * workers / seconds


def _chains(target: Target) -> int:
    """As many as there is room for: each waits for its own last sum, and the units want two new ones a cycle."""
    return 24 if target.registers >= 32 else 12

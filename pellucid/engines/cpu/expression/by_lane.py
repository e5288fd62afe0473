"""Functions that have no vector code: the C library's, of one lane after another. Right, and slower.

Every Python program has that library in its process.
"""

from __future__ import annotations

from collections.abc import Callable

from pellucid.engines.cpu.expression.vectormath import in_double
from pellucid.engines.cpu.machine.builder import F64, Code, Value, element_of

NAMES = ("sinh", "cosh", "asinh", "acosh", "atanh", "erfc")


def each_lane(code: Code, function: Callable[..., Value], *values: Value) -> Value:
    """`function` of each lane."""
    if values[0].lanes == 1:
        return function(*values)
    element = element_of(values[0].type)
    places = [code.variable(value) for value in values]
    result = code.variable(values[0])

    def lane(i: Value) -> None:
        code.store(result.place, function(*(code.load(place.place, element, i) for place in places)), i)

    code.loop(0, values[0].lanes, lane)
    return result.get()


def library(name: str) -> Callable[..., Value]:
    """The C library's function of one or two numbers."""
    return in_double(lambda code, *values: each_lane(code, lambda *own: code.intrinsic(name, F64, *own), *values))


def remainder(code: Code, a: Value, b: Value) -> Value:
    """What a division that rounds towards 0 leaves, exactly."""
    return each_lane(code, lambda x, y: Value(code, code.ir.frem(x.raw, y.raw)), *code.match(a, b))


FUNCTIONS = {name: library(name) for name in NAMES}
power = library("pow")

"""sin, cos, tan and their inverses in vector code, in double precision: 1 to 2 units in its last place.

Angles beyond a million go to the C library, which knows pi to as many digits as they need.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache

from pellucid.engines.cpu.expression.by_lane import library
from pellucid.engines.cpu.expression.vectormath import DOUBLE, TERMS, economised, horner, in_double
from pellucid.engines.cpu.machine.builder import F32, I32, I64, Code, Value, element_of, vector

MOST_TURNED = 1e6
HALF_PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459") / 2


@cache
def _parts() -> tuple[float, float, float]:
    """Half of pi as two numbers of 33 bits, whose products with whole ones are exact, and the rest (Cody, Waite)."""
    first = Fraction(math.floor(HALF_PI * 2**32), 2**32)
    second = Fraction(math.floor((HALF_PI - first) * 2**66), 2**66)
    return float(first), float(second), float(HALF_PI - first - second)


@cache
def _series(first: int) -> tuple[float, ...]:
    """Of (cos(x) - 1) / x^2 if `first` is 2, of (sin(x) / x - 1) / x^2 if it is 3: in powers of x^2, up to pi / 4."""
    taylor = [(-1) ** (n + 1) / math.factorial(2 * n + first) for n in range(TERMS // 2)]
    return economised(taylor, 0, (math.pi / 4) ** 2 * 1.0001, 8)


def _turned(code: Code, x: Value) -> tuple[Value, Value]:
    """What whole quarter turns leave of an angle, and how many they are, in the low bits of an integer."""
    shifted = x * (2 / math.pi) + DOUBLE.magic
    quarters = shifted - DOUBLE.magic
    first, second, third = _parts()
    head, step = x - quarters * first, quarters * second  # both exact
    near = head - step
    back = near - head
    lost = (head - (near - back)) - (step + back)
    return near + (lost - quarters * third), shifted.bits(vector(I64, x.lanes))


def _sine_and_cosine(code: Code, angle: Value) -> tuple[Value, Value]:
    square = angle * angle
    sine = code.fma(angle * square, horner(code, square, _series(3)), angle)
    return sine, code.fma(square, horner(code, square, _series(2)), 1.0)


def _near_sin(code: Code, x: Value, ahead: int = 0) -> Value:
    """sin(x), or of x and so many quarter turns."""
    angle, quarters = _turned(code, x)
    sine, cosine = _sine_and_cosine(code, angle)
    quarters = quarters + ahead
    found = code.select((quarters & 1) == 0, sine, cosine)
    return code.select((quarters & 2) == 0, found, -found)


def _near_cos(code: Code, x: Value) -> Value:
    return _near_sin(code, x, 1)


def _near_tan(code: Code, x: Value) -> Value:
    angle, quarters = _turned(code, x)
    sine, cosine = _sine_and_cosine(code, angle)
    even = (quarters & 1) == 0
    return code.select(even, sine, -cosine) / code.select(even, cosine, sine)


def _of_any_angle(name: str, near: Callable[[Code, Value], Value]) -> Callable[..., Value]:
    def function(code: Code, x: Value) -> Value:
        result = code.variable(near(code, x))
        with code.when(code.any(code.unary("fabs", x) > MOST_TURNED)):
            result.set(library(name)(code, x))
        return result.get()

    return in_double(function)


def negative(x: Value) -> Value:
    """Whether the sign is set, of 0 as well."""
    return x.bits(vector(I32 if element_of(x.type) is F32 else I64, x.lanes)) < 0


@cache
def _atan_coefficients() -> tuple[float, ...]:
    """Of (atan(x) / x - 1) / x^2 in powers of x^2, up to tan(pi / 8)."""
    return economised([(-1) ** (n + 1) / (2 * n + 3) for n in range(TERMS)], 0, 3 - 2 * math.sqrt(2), 13)


@in_double
def atan2(code: Code, y: Value, x: Value) -> Value:
    """The angle at which (x, y) is seen, from -pi to pi."""
    height, width = code.unary("fabs", y), code.unary("fabs", x)
    steep = height > width
    small, large = code.select(steep, width, height), code.select(steep, height, width)
    slope = code.select(large == 0.0, 0.0, code.select(small == math.inf, 1.0, small / large))
    folded = slope > math.sqrt(2) - 1
    slope = code.select(folded, (slope - 1.0) / (slope + 1.0), slope)
    square = slope * slope
    angle = code.fma(slope * square, horner(code, square, _atan_coefficients()), slope)
    angle = angle + code.select(folded, code.constant(x.type, math.pi / 4), 0.0)
    angle = code.select(steep, math.pi / 2 - angle, angle)
    angle = code.select(negative(x), math.pi - angle, angle)
    angle = code.select((x == x) & (y == y), angle, math.nan)
    return code.select(negative(y), -angle, angle)


def atan(code: Code, x: Value) -> Value:
    """The angle whose tangent is x."""
    return atan2(code, x, code.constant(x.type, 1.0))


@in_double
def asin(code: Code, x: Value) -> Value:
    """The angle whose sine is x."""
    return atan2(code, x, _other_side(code, x))


@in_double
def acos(code: Code, x: Value) -> Value:
    """The angle whose cosine is x."""
    return atan2(code, _other_side(code, x), x)


def _other_side(code: Code, x: Value) -> Value:
    """Of a triangle with a right angle, a side x and hypotenuse 1."""
    return code.unary("sqrt", (1.0 - x) * (x + 1.0))


@in_double
def hypot(code: Code, x: Value, y: Value) -> Value:
    """The distance of (x, y) from 0."""
    height, width = code.unary("fabs", y), code.unary("fabs", x)
    steep = height > width
    small, large = code.select(steep, width, height), code.select(steep, height, width)
    slope = code.select((large == 0.0) & (small == 0.0), 0.0, small / large)
    length = large * code.unary("sqrt", slope * slope + 1.0)
    return code.select((height == math.inf) | (width == math.inf), math.inf, length)


FUNCTIONS = {
    "sin": _of_any_angle("sin", _near_sin),
    "cos": _of_any_angle("cos", _near_cos),
    "tan": _of_any_angle("tan", _near_tan),
    "asin": asin,
    "acos": acos,
    "atan": atan,
}

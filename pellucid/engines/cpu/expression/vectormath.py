"""exp2, exp, log, tanh, sigmoid and erf in vector code, for float32 and float64; circular.py has sin and its inverses.

Errors, relative, as measured by tests/engines/cpu/test_vectormath.py: 2 units in the last place for exp2 on [-126, 0]
and for log and log2 away from 1, 4 for exp, tanh and sigmoid. Results below the smallest normal number are 0. What no
inner loop needs is computed in double precision: of float32 it gives the nearest number, nearly always.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import ir
from numpy.polynomial import Chebyshev, Polynomial

from pellucid.engines.cpu.machine.builder import F32, F64, I32, I64, Code, Value, bytes_of, element_of, vector


@dataclass(frozen=True)
class Format:
    """What the functions need to know of a floating-point format.

    Attributes:
        integer: as many bits.
        mantissa: bits of it in memory.
        lowest: exponent of the smallest normal number.
        exp2_degree: of the polynomial that exp2 comes from.
        log_terms: of the series that a logarithm comes from, beyond the first.

    """

    integer: ir.Type
    mantissa: int
    lowest: int  # exponent of the smallest normal number
    exp2_degree: int
    log_terms: int

    @property
    def magic(self) -> float:
        """Adding it leaves the nearest integer in the low bits of the mantissa."""
        return 1.5 * 2.0**self.mantissa


SINGLE = Format(I32, 23, -126, 6, 5)
DOUBLE = Format(I64, 52, -1022, 11, 11)
TERMS = 24  # of a series that is exact in double precision
DOWN, CURRENT = 1, 4  # how AVX-512 is told to round: down, or as the processor is set
# log(2) as a number of few bits, whose products with small integers are exact, and the rest (Cody and Waite).
LN2 = {23: (0.693359375, -2.12194440054690583e-4), 52: (6.93145751953125e-1, 1.42860682030941723212e-6)}


def _format(value: Value) -> Format:
    return DOUBLE if element_of(value.type) is F64 else SINGLE


@cache
def _exp2_coefficients(degree: int, low: float = -0.5) -> tuple[float, ...]:
    """Of (2^x - 1) / x on an interval of length 1, lowest first."""
    return economised([math.log(2) ** n / math.factorial(n) for n in range(1, TERMS)], low, low + 1, degree)


def economised(taylor: Sequence[float], low: float, high: float, terms: int) -> tuple[float, ...]:
    """Coefficients for an interval, lowest first: Taylor's series, economised by Chebyshev's.

    Args:
        taylor: coefficients of the powers of x, lowest first.
        low: where the interval begins.
        high: where it ends.
        terms: how many coefficients are wanted.

    """
    series = Polynomial(taylor).convert(kind=Chebyshev, domain=[low, high]).truncate(terms)
    return tuple(series.convert(kind=Polynomial).coef)


def in_double(function: Callable[..., Value]) -> Callable[..., Value]:
    """`function`, which is written for float64, for float32 as well."""

    def wide(code: Code, *values: Value) -> Value:
        if element_of(values[0].type) is F64:
            return function(code, *values)
        return function(code, *(value.to(F64) for value in values)).to(F32)

    return wide


def horner(code: Code, x: Value, coefficients: tuple[float, ...]) -> Value:
    """The polynomial's value; coefficients lowest first."""
    result = code.constant(x.type, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = code.fma(result, x, coefficient)
    return result


def _split(code: Code, x: Value) -> tuple[Value, Value]:
    """The nearest integer to each lane as a float, and the same as an integer shifted into the exponent's place."""
    form = _format(x)
    shifted = x + form.magic
    integer = vector(form.integer, x.lanes)
    return shifted - form.magic, shifted.bits(integer) << form.mantissa


def _scaled(code: Code, x: Value, exponent: Value) -> Value:
    """x * 2^n for a normal result, n already in the exponent's place."""
    return (x.bits(exponent.type) + exponent).bits(x.type)


def exp2(code: Code, x: Value) -> Value:
    """2^x for x up to the format's largest exponent; NaN stays NaN."""
    form = _format(x)
    low = x < form.lowest
    clamped = code.select(low, form.lowest, x)
    whole, exponent = _split(code, clamped)
    fraction = clamped - whole
    power = code.fma(horner(code, fraction, _exp2_coefficients(form.exp2_degree)), fraction, 1.0)
    return code.select(low, 0.0, _scaled(code, power, exponent))


def exp2_of_distance(code: Code, x: Value, degree: int, *, scaling: bool) -> Value:
    """2^x for x up to 0, by a polynomial of the given degree; 0 below half the smallest normal number, NaN stays NaN.

    For the inner loop. With `scaling`, AVX-512 splits a number and scales by a power of two in an instruction each.
    Without, at one less than the smallest exponent the sum of exponents is that of 0, so a single maximum does what a
    comparison and a selection would.

    Args:
        code: the function being written.
        x: a scalar or a vector of float32 or float64.
        degree: of the polynomial.
        scaling: whether the processor has AVX-512, which is then used for whole vectors.

    """
    if scaling and x.lanes * bytes_of(element_of(x.type)) == 64:
        return _exp2_scaled(code, x, degree)
    clamped = code.maximum(_format(x).lowest - 1.0, x)
    whole, exponent = _split(code, clamped)
    fraction = clamped - whole
    power = code.fma(horner(code, fraction, _exp2_coefficients(degree)), fraction, 1.0)
    return _scaled(code, power, exponent)


def _exp2_scaled(code: Code, x: Value, degree: int) -> Value:
    normal = ~(x < _format(x).lowest)  # NaN among them
    every = code.constant(normal.type, 1)
    fraction = _masked(code, "reduce", every, x, code.constant(I32, DOWN))
    power = code.fma(horner(code, fraction, _exp2_coefficients(degree, 0.0)), fraction, 1.0)
    return _masked(code, "scalef", normal, power, x)


def _masked(code: Code, name: str, mask: Value, x: Value, other: Value) -> Value:
    """An instruction of AVX-512; 0 where not `mask`."""
    suffix = "ps" if element_of(x.type) is F32 else "pd"
    bits = mask.bits(ir.IntType(mask.lanes))
    zero, rounding = code.constant(x.type, 0.0), code.constant(I32, CURRENT)
    return code.intrinsic(f"llvm.x86.avx512.mask.{name}.{suffix}.512", x.type, x, other, zero, bits, rounding)


def exp(code: Code, x: Value) -> Value:
    """e^x; +inf where it overflows."""
    form = _format(x)
    most = (1 - form.lowest) * math.log(2) + math.log(2) * 0.999
    least = form.lowest * math.log(2)
    high, low = x > most, x < least
    clamped = code.select(high, most - 1.0, code.select(low, least, x))
    whole, exponent = _split(code, clamped * math.log2(math.e))
    ln2, ln2_rest = LN2[form.mantissa]
    rest = code.fma(whole, -ln2_rest, code.fma(whole, -ln2, clamped)) * math.log2(math.e)
    power = code.fma(horner(code, rest, _exp2_coefficients(form.exp2_degree)), rest, 1.0)
    # In two steps: the largest results need an exponent that one step cannot hold.
    half = (exponent >> (form.mantissa + 1)) << form.mantissa
    one = code.constant(x.type, 1.0)
    scaled = _scaled(code, power, half) * _scaled(code, one, exponent - half)
    return code.select(low, 0.0, code.select(high, math.inf, scaled))


def _expm1_near_0(code: Code, x: Value) -> Value:
    """e^x - 1 for moderate x, keeping its digits near 0."""
    y = x * math.log2(math.e)
    whole, exponent = _split(code, y)
    fraction = y - whole
    less_one = horner(code, fraction, _exp2_coefficients(_format(x).exp2_degree)) * fraction
    scale = _scaled(code, code.constant(x.type, 1.0), exponent)
    return code.fma(less_one, scale, scale - 1.0)


def tanh(code: Code, x: Value) -> Value:
    """The hyperbolic tangent; NaN stays NaN."""
    bounded = code.select(x > 20.0, 20.0, code.select(x < -20.0, -20.0, x))
    grown = _expm1_near_0(code, bounded * 2.0)
    return grown / (grown + 2.0)


def sigmoid(code: Code, x: Value) -> Value:
    """1 / (1 + e^-x)."""
    return 1.0 / (exp(code, -x) + 1.0)


def log2(code: Code, x: Value) -> Value:
    """The logarithm to base 2; -inf at 0, NaN below."""
    form = _format(x)
    integer = vector(form.integer, x.lanes)
    tiny = x < 2.0**form.lowest
    normal = code.select(tiny, x * 2.0**form.mantissa, x)
    # The exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)).
    bits = normal.bits(integer) - code.constant(normal.type, math.sqrt(0.5)).bits(integer)
    exponent = bits >> form.mantissa
    mantissa = (normal.bits(integer) - (exponent << form.mantissa)).bits(x.type)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    series = horner(code, s * s, tuple(1.0 / (2 * i + 1) for i in range(form.log_terms + 1)))
    exponent_value = exponent.to(element_of(x.type)) - code.select(
        tiny, float(form.mantissa), code.constant(x.type, 0.0)
    )
    result = code.fma(s * series, 2.0 / math.log(2), exponent_value)
    result = code.select(x == math.inf, math.inf, result)
    result = code.select(x == 0.0, -math.inf, result)
    return code.select(x >= 0.0, result, math.nan)


def log(code: Code, x: Value) -> Value:
    """The natural logarithm."""
    return log2(code, x) * math.log(2)


@in_double
def expm1(code: Code, x: Value) -> Value:
    """e^x - 1, keeping its digits near 0."""
    near = (x < 1.0) & (x > -1.0)
    return code.select(near, _expm1_near_0(code, code.select(near, x, 0.0)), exp(code, x) - 1.0)


@in_double
def log1p(code: Code, x: Value) -> Value:
    """The logarithm of 1 + x, keeping its digits near 0."""
    grown = x + 1.0
    lost = (x - (grown - 1.0)) / grown  # what the sum left out
    return log(code, grown) + code.select((grown > 0.0) & (grown < math.inf), lost, 0.0)


@in_double
def log10(code: Code, x: Value) -> Value:
    """The logarithm to base 10."""
    return log2(code, x) * math.log10(2)


ERF_ENDS = 6.0  # from here on it is 1


@cache
def _erf_coefficients() -> tuple[float, ...]:
    """Of erf(x) / x in powers of x^2, up to 1."""
    taylor = [2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(TERMS)]
    return economised(taylor, 0, 1, 14)


@cache
def _erf_tail() -> tuple[tuple[float, ...], float, float]:
    """Of (1 - erf(x)) * e^(x^2) from 1 on, in powers of (1 / (1 + x / 2) - middle) / half; middle; half."""
    ends = 1 / (1 + ERF_ENDS / 2), 1 / 1.5
    middle, half = sum(ends) / 2, (ends[1] - ends[0]) / 2

    def scaled(u: Any) -> Any:
        x = 2 / (middle + half * u) - 2
        return [math.erfc(one) * math.exp(one * one) for one in x]

    series = Chebyshev.interpolate(scaled, 18, domain=[-1, 1])
    return tuple(series.convert(kind=Polynomial).coef), middle, half


@in_double
def erf(code: Code, x: Value) -> Value:
    """The error function."""
    size = code.unary("fabs", x)
    bounded = code.select(size > ERF_ENDS, ERF_ENDS, size)
    coefficients, middle, half = _erf_tail()
    place = (1.0 / (bounded * 0.5 + 1.0) - middle) * (1.0 / half)
    tail = 1.0 - exp(code, -(bounded * bounded)) * horner(code, place, coefficients)
    near = x * horner(code, x * x, _erf_coefficients())
    return code.select(size < 1.0, near, code.select(x < 0.0, -tail, tail))


FUNCTIONS = {
    "exp2": exp2,
    "exp": exp,
    "expm1": expm1,
    "log2": log2,
    "log": log,
    "log10": log10,
    "log1p": log1p,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "erf": erf,
}

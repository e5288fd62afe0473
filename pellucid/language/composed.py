"""Torch's functions of numbers that are made of the language's operations: special functions and activations.

Each is written so that neither its value nor its derivative is NaN where torch's is not: what would be infinite in the
branch that a `where` does not take is kept out of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pellucid.language.expression import Expression, cast
from pellucid.language.operands import UnsupportedError, apply, expression

Function = Callable[..., Expression]
SELU = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def where(condition: Any, input: Any, other: Any) -> Expression:
    """`input` where the condition holds, else `other`."""
    return apply("where", condition, input, other)


def add(a: Any, b: Any) -> Expression:
    """a + b."""
    return apply("add", a, b)


def sub(a: Any, b: Any) -> Expression:
    """a - b."""
    return apply("sub", a, b)


def mul(a: Any, b: Any) -> Expression:
    """a * b."""
    return apply("mul", a, b)


def over(a: Any, b: Any) -> Expression:
    """a / b."""
    return apply("truediv", a, b)


def floating(value: Any) -> Expression:
    """`value` as a float."""
    return cast(expression(value), "float")


def _product_or_nothing(x: Any, y: Any, function: str, neutral: float, defined_from: float) -> Expression:
    """x * function(y), and 0 where x is 0, whatever a y that is a number gives."""
    x, y = floating(x), floating(y)
    inside = apply("and", apply("gt", y, defined_from), apply("lt", y, math.inf))
    is_number = apply("eq", y, y)
    nothing = apply("and", apply("and", apply("eq", x, 0), is_number), apply("not", inside))
    return mul(x, apply(function, where(nothing, neutral, y)))


def xlogy(input: Any, other: Any) -> Expression:
    """x * log(y)."""
    return _product_or_nothing(input, other, "log", 1.0, 0.0)


def xlog1py(input: Any, other: Any) -> Expression:
    """x * log(1 + y)."""
    return _product_or_nothing(input, other, "log1p", 0.0, -1.0)


def entr(input: Any) -> Expression:
    """-x * log(x), and -inf below 0. At 0 it counts as flat, where torch's slope is infinite."""
    x = floating(input)
    kept = where(apply("le", x, 0), 1.0, x)
    inside = apply("neg", mul(x, apply("log", kept)))
    return where(apply("lt", x, 0), -math.inf, where(apply("eq", x, 0), 0.0, inside))


def sinc(input: Any) -> Expression:
    """sin(pi x) / (pi x), and 1 at 0."""
    x = floating(input)
    zero = apply("eq", x, 0)
    turned = mul(where(zero, 1.0, x), math.pi)
    return where(zero, 1.0, over(apply("sin", turned), turned))


def logit(input: Any, eps: float | None = None) -> Expression:
    """log(x / (1 - x)), of x between eps and 1 - eps."""
    x = floating(input)
    if eps is not None:
        x = where(apply("lt", x, eps), eps, where(apply("gt", x, 1 - eps), 1 - eps, x))
    return apply("log", over(x, sub(1.0, x)))


def _log_of_sum(a: Any, b: Any, exponential: str, unit: float) -> Expression:
    a, b = floating(a), floating(b)
    distance = where(apply("eq", a, b), 0.0, apply("abs", sub(a, b)))  # infinities may be equal
    more = apply("log1p", apply(exponential, apply("neg", distance)))
    return add(apply("maximum", a, b), over(more, unit))


def logaddexp(input: Any, other: Any) -> Expression:
    """log(e^a + e^b)."""
    return _log_of_sum(input, other, "exp", 1.0)


def logaddexp2(input: Any, other: Any) -> Expression:
    """log2(2^a + 2^b)."""
    return _log_of_sum(input, other, "exp2", math.log(2))


def ndtr(input: Any) -> Expression:
    """The normal distribution's integral up to x."""
    return mul(0.5, apply("erfc", mul(floating(input), -math.sqrt(0.5))))


def copysign(input: Any, other: Any) -> Expression:
    """|a| with b's sign."""
    size = apply("abs", floating(input))
    return where(apply("signbit", _number(other)), apply("neg", size), size)


def _number(value: Any) -> Expression:
    """`value`, a bool as a whole number."""
    found = expression(value)
    return cast(found, "int") if found.kind == "bool" else found


def heaviside(input: Any, values: Any) -> Expression:
    """0 below 0, 1 above, `values` at 0."""
    return where(apply("eq", input, 0), values, apply("gt", input, 0))


def isnan(input: Any) -> Expression:
    """Whether x is NaN."""
    return apply("ne", input, input)


def isinf(input: Any) -> Expression:
    """Whether x is infinite."""
    return apply("eq", apply("abs", _number(input)), math.inf)


def isfinite(input: Any) -> Expression:
    """Whether x is a finite number."""
    return apply("lt", apply("abs", _number(input)), math.inf)


def _of_those_that_are_numbers(op: str, a: Any, b: Any) -> Expression:
    return where(isnan(a), b, where(isnan(b), a, apply(op, a, b)))


def fmin(input: Any, other: Any) -> Expression:
    """The smaller, of NaN and a number the number."""
    return _of_those_that_are_numbers("minimum", input, other)


def fmax(input: Any, other: Any) -> Expression:
    """The larger, of NaN and a number the number."""
    return _of_those_that_are_numbers("maximum", input, other)


def nan_to_num(input: Any, nan: float | None = None, posinf: Any = None, neginf: Any = None) -> Expression:
    """x, with NaN and infinities replaced: by 0 and the largest numbers unless told.

    Args:
        input: x, an expression or a number; a bool or an int stays as it is.
        nan: in the place of NaN; 0 if None.
        posinf: in the place of +inf, a number or an expression; the largest finite number if None.
        neginf: in the place of -inf; the lowest finite number if None.

    """
    x = expression(input)
    if x.kind != "float":
        return x
    high = apply("largest", x) if posinf is None else posinf
    low = apply("neg", apply("largest", x)) if neginf is None else neginf
    finite = where(apply("eq", x, math.inf), high, where(apply("eq", x, -math.inf), low, x))
    return where(isnan(x), 0.0 if nan is None else nan, finite)


def frac(input: Any) -> Expression:
    """What is behind the point, with x's sign."""
    x = floating(input)
    return sub(x, apply("trunc", x))


def lerp(input: Any, end: Any, weight: Any) -> Expression:
    """From `input` to `end` by a weight from 0 to 1."""
    start, end, weight = floating(input), floating(end), floating(weight)
    way = sub(end, start)
    near = add(start, mul(weight, way))
    return where(apply("lt", apply("abs", weight), 0.5), near, sub(end, mul(way, sub(1.0, weight))))


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Expression:
    """x + value * a * b.

    Args:
        input: x, an expression or a number, as all of these.
        tensor1: a.
        tensor2: b.
        value: the factor.

    """
    return add(input, mul(mul(value, tensor1), tensor2))


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Expression:
    """x + value * a / b.

    Args:
        input: x, an expression or a number, as all of these.
        tensor1: a.
        tensor2: b.
        value: the factor.

    """
    return add(input, over(mul(value, tensor1), tensor2))


def ldexp(input: Any, other: Any) -> Expression:
    """a * 2^b."""
    return mul(floating(input), apply("exp2", other))


# Activations. torch.nn.functional's own arguments; `inplace` has no meaning here.


def _bell(x: Expression) -> Expression:
    """log(1 + e^-|x|)."""
    return apply("log1p", apply("exp", apply("neg", apply("abs", x))))


def silu(input: Any, inplace: bool = False) -> Expression:
    """x * sigmoid(x)."""
    x = floating(input)
    return mul(x, apply("sigmoid", x))


def gelu(input: Any, *, approximate: str = "none") -> Expression:
    """x times the normal distribution's integral up to it, or tanh's approximation of that.

    Raises UnsupportedError if `approximate` is neither "none" nor "tanh".
    """
    x = floating(input)
    if approximate == "tanh":
        inner = mul(math.sqrt(2 / math.pi), add(x, mul(0.044715, mul(mul(x, x), x))))
        return mul(mul(0.5, x), add(1.0, apply("tanh", inner)))
    if approximate != "none":
        raise UnsupportedError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return mul(mul(0.5, x), add(1.0, apply("erf", mul(x, math.sqrt(0.5)))))


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Expression:
    """log(1 + e^(beta x)) / beta, and x itself where beta x is above the threshold."""
    x = floating(input)
    z = mul(x, float(beta))
    return where(apply("gt", z, threshold), x, over(add(apply("maximum", z, 0.0), _bell(z)), float(beta)))


def logsigmoid(input: Any) -> Expression:
    """log(sigmoid(x))."""
    x = floating(input)
    return sub(apply("minimum", x, 0.0), _bell(x))


def mish(input: Any, inplace: bool = False) -> Expression:
    """x * tanh(softplus(x))."""
    return mul(floating(input), apply("tanh", softplus(input)))


def relu(input: Any, inplace: bool = False) -> Expression:
    """x above 0, else 0."""
    return where(apply("le", input, 0), 0, input)


def hardtanh(input: Any, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False) -> Expression:
    """x kept between two numbers, flat at them.

    Args:
        input: x, an expression or a number, whose kind the result has.
        min_val: the lower, made a number of that kind.
        max_val: the upper, made one too.
        inplace: torch's, without meaning here.

    """
    x = expression(input)
    low, high = (cast(expression(limit), x.kind) for limit in (min_val, max_val))
    return where(apply("le", x, low), low, where(apply("ge", x, high), high, x))


def relu6(input: Any, inplace: bool = False) -> Expression:
    """x kept between 0 and 6."""
    return hardtanh(input, 0, 6)


def hardsigmoid(input: Any, inplace: bool = False) -> Expression:
    """(x + 3) / 6 kept between 0 and 1."""
    return over(hardtanh(add(floating(input), 3.0), 0.0, 6.0), 6.0)


def hardswish(input: Any, inplace: bool = False) -> Expression:
    """x * hardsigmoid(x)."""
    return over(mul(floating(input), hardtanh(add(floating(input), 3.0), 0.0, 6.0)), 6.0)


def leaky_relu(input: Any, negative_slope: Any = 0.01, inplace: bool = False) -> Expression:
    """x above 0, else a part of it."""
    x = floating(input)
    return where(apply("gt", x, 0), x, mul(x, negative_slope))


def prelu(input: Any, weight: Any) -> Expression:
    """x above 0, else `weight` times x."""
    return leaky_relu(input, weight)


def _below_0(x: Expression) -> Expression:
    return where(apply("gt", x, 0), 0.0, x)


def elu(input: Any, alpha: Any = 1.0, inplace: bool = False, *, scale: float = 1.0) -> Expression:
    """x above 0, else alpha * (e^x - 1); all of it times scale.

    Args:
        input: x, an expression or a number.
        alpha: a number.
        inplace: torch's, without meaning here.
        scale: a number.

    """
    x = floating(input)
    below = mul(float(alpha), apply("expm1", _below_0(x)))
    return mul(where(apply("gt", x, 0), x, below), scale)


def selu(input: Any, inplace: bool = False) -> Expression:
    """The self-normalising elu."""
    scale, alpha = SELU
    return elu(input, alpha, scale=scale)


def celu(input: Any, alpha: Any = 1.0, inplace: bool = False) -> Expression:
    """x above 0, else alpha * (e^(x / alpha) - 1)."""
    x = floating(input)
    below = mul(float(alpha), apply("expm1", over(_below_0(x), float(alpha))))
    return where(apply("gt", x, 0), x, below)


def threshold(input: Any, threshold: Any, value: Any, inplace: bool = False) -> Expression:
    """x above the threshold, else `value`.

    Args:
        input: x, an expression or a number, whose kind the result has.
        threshold: up to which, and at which, `value` is taken.
        value: a number or an expression, made one of that kind.
        inplace: torch's, without meaning here.

    """
    return where(apply("le", input, threshold), cast(expression(value), expression(input).kind), input)


def softsign(input: Any) -> Expression:
    """x / (1 + |x|)."""
    x = floating(input)
    return over(x, add(1.0, apply("abs", x)))


def tanhshrink(input: Any) -> Expression:
    """x - tanh(x)."""
    x = floating(input)
    return sub(x, apply("tanh", x))


def hardshrink(input: Any, lambd: float = 0.5) -> Expression:
    """x where it is larger than lambd, else 0."""
    x = floating(input)
    return where(apply("le", apply("abs", x), lambd), 0.0, x)


def softshrink(input: Any, lambd: float = 0.5) -> Expression:
    """x brought nearer to 0 by lambd."""
    x = floating(input)
    nearer = where(apply("lt", x, 0), add(x, lambd), sub(x, lambd))
    return where(apply("le", apply("abs", x), lambd), 0.0, nearer)


def square(input: Any) -> Expression:
    """x * x."""
    return mul(_number(input), _number(input))


COMPOSED: dict[str, Function] = {
    **{f.__name__: f for f in (xlogy, sinc, logit, logaddexp, logaddexp2, copysign, heaviside, isnan)},
    **{
        f.__name__: f
        for f in (isinf, isfinite, fmin, fmax, nan_to_num, frac, lerp, addcmul, addcdiv, ldexp, square, relu)
    },
    **{f.__name__: f for f in (silu, gelu, softplus, logsigmoid, mish, hardtanh, relu6, hardsigmoid, hardswish)},
    **{f.__name__: f for f in (leaky_relu, prelu, elu, selu, celu, threshold, softsign, tanhshrink)},
    **{f.__name__: f for f in (hardshrink, softshrink)},
    **{f"special_{f.__name__}": f for f in (xlog1py, entr, ndtr)},
    "log_sigmoid": logsigmoid,
    "_threshold": threshold,
    "isposinf": lambda input: apply("eq", input, math.inf),
    "isneginf": lambda input: apply("eq", input, -math.inf),
    "deg2rad": lambda input: mul(floating(input), math.pi / 180),
    "rad2deg": lambda input: mul(floating(input), 180 / math.pi),
    "rsqrt": lambda input: over(1.0, apply("sqrt", input)),
    "reciprocal": lambda input: over(1.0, input),
}

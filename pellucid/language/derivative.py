"""The derivative of an expression with respect to the score and to what it loads from captured float tensors.

Reverse mode over the graph: the result is again expressions, so an engine evaluates or compiles them like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from pellucid.language.expression import Expression, constant, operation, walk

ZERO, ONE = constant(0.0), constant(1.0)
Rule = Callable[..., tuple[Expression | None, ...]]


def derivatives(root: Expression, wanted: Collection[Expression]) -> list[Expression]:
    """D root / d node for each node in `wanted` (the score, or loads): zero where `root` does not depend on it."""
    needed = {id(node) for node in wanted}
    order = list(walk(root))
    for node in order:
        if node.kind == "float" and any(id(a) in needed for a in node.args):
            needed.add(id(node))
    gradients: dict[int, Expression] = {id(root): ONE}
    for node in reversed(order):
        gradient = gradients.get(id(node))
        if gradient is None or id(node) not in needed or node.op not in RULES:
            continue
        for arg, share in zip(node.args, RULES[node.op](gradient, node, *node.args), strict=True):
            if share is not None and id(arg) in needed:
                gradients[id(arg)] = operation("add", gradients[id(arg)], share) if id(arg) in gradients else share
    return [gradients.get(id(node), ZERO) if id(node) in needed else ZERO for node in wanted]


def _mul(*factors: Expression) -> Expression:
    product = factors[0]
    for factor in factors[1:]:
        product = operation("mul", product, factor)
    return product


def _div(g: Expression, node: Expression, a: Expression, b: Expression) -> tuple[Expression, ...]:
    return operation("truediv", g, b), operation("neg", operation("truediv", _mul(g, node), b))


def _mod(g: Expression, node: Expression, a: Expression, b: Expression) -> tuple[Expression, ...]:
    return g, operation("neg", _mul(g, operation("floordiv", a, b)))


def _extremum(comparison: str) -> Rule:
    # Where both are equal each gets half, as in torch.
    def rule(g: Expression, node: Expression, a: Expression, b: Expression) -> tuple[Expression, ...]:
        tie = operation("where", operation("eq", a, b), _mul(g, constant(0.5)), ZERO)
        first, second = operation(comparison, a, b), operation(comparison, b, a)
        return operation("where", first, g, tie), operation("where", second, g, tie)

    return rule


def _abs(g: Expression, node: Expression, a: Expression) -> tuple[Expression, ...]:
    negative, positive = operation("lt", a, ZERO), operation("gt", a, ZERO)
    return (operation("where", positive, g, operation("where", negative, operation("neg", g), ZERO)),)


def _where(
    g: Expression, node: Expression, condition: Expression, a: Expression, b: Expression
) -> tuple[Expression | None, ...]:
    return None, operation("where", condition, g, ZERO), operation("where", condition, ZERO, g)


def _one_minus(x: Expression) -> Expression:
    return operation("sub", ONE, x)


def _one_plus(x: Expression) -> Expression:
    return operation("add", ONE, x)


def _over(numerator: Expression, denominator: Expression) -> Expression:
    return operation("truediv", numerator, denominator)


def _over_root(g: Expression, squared: Expression) -> tuple[Expression]:
    return (_over(g, operation("sqrt", squared)),)


def _of_erf(sign: float) -> Rule:
    def rule(g: Expression, node: Expression, a: Expression) -> tuple[Expression]:
        bell = operation("exp", operation("neg", _mul(a, a)))
        return (_mul(g, bell, constant(sign * 2 / math.sqrt(math.pi))),)

    return rule


def _atan2(g: Expression, node: Expression, y: Expression, x: Expression) -> tuple[Expression, ...]:
    square = operation("add", _mul(x, x), _mul(y, y))
    origin = operation("eq", square, ZERO)  # where torch takes a slope of 0
    scaled = operation("where", origin, ZERO, _over(g, operation("where", origin, ONE, square)))
    return _mul(scaled, x), operation("neg", _mul(scaled, y))


def _hypot(g: Expression, node: Expression, a: Expression, b: Expression) -> tuple[Expression, ...]:
    return _mul(g, _over(a, node)), _mul(g, _over(b, node))


def _fmod(g: Expression, node: Expression, a: Expression, b: Expression) -> tuple[Expression, ...]:
    return g, operation("neg", _mul(g, operation("trunc", _over(a, b))))


def _pow(g: Expression, node: Expression, base: Expression, exponent: Expression) -> tuple[Expression, ...]:
    flat = operation("eq", exponent, ZERO)
    slope = _mul(g, exponent, operation("pow", base, operation("sub", exponent, ONE)))
    # 0 to a power from 0 on does not change with it.
    zero = operation("and", operation("eq", base, ZERO), operation("ge", exponent, ZERO))
    log = operation("log", operation("where", zero, ONE, base))
    return operation("where", flat, ZERO, slope), operation("where", zero, ZERO, _mul(g, node, log))


RULES: dict[str, Rule] = {
    "add": lambda g, node, a, b: (g, g),
    "sub": lambda g, node, a, b: (g, operation("neg", g)),
    "mul": lambda g, node, a, b: (_mul(g, b), _mul(g, a)),
    "truediv": _div,
    "mod": _mod,
    "minimum": _extremum("lt"),
    "maximum": _extremum("gt"),
    "where": _where,
    "neg": lambda g, node, a: (operation("neg", g),),
    "abs": _abs,
    "exp": lambda g, node, a: (_mul(g, node),),
    "exp2": lambda g, node, a: (_mul(g, node, constant(math.log(2))),),
    "log": lambda g, node, a: (operation("truediv", g, a),),
    "log2": lambda g, node, a: (operation("truediv", g, _mul(a, constant(math.log(2)))),),
    "tanh": lambda g, node, a: (_mul(g, _one_minus(_mul(node, node))),),
    "sigmoid": lambda g, node, a: (_mul(g, node, _one_minus(node)),),
    "sqrt": lambda g, node, a: (operation("truediv", g, _mul(constant(2.0), node)),),
    "expm1": lambda g, node, a: (_mul(g, _one_plus(node)),),
    "log1p": lambda g, node, a: (_over(g, _one_plus(a)),),
    "log10": lambda g, node, a: (_over(g, _mul(a, constant(math.log(10)))),),
    "sin": lambda g, node, a: (_mul(g, operation("cos", a)),),
    "cos": lambda g, node, a: (operation("neg", _mul(g, operation("sin", a))),),
    "tan": lambda g, node, a: (_mul(g, _one_plus(_mul(node, node))),),
    "asin": lambda g, node, a: _over_root(g, _one_minus(_mul(a, a))),
    "acos": lambda g, node, a: _over_root(operation("neg", g), _one_minus(_mul(a, a))),
    "atan": lambda g, node, a: (_over(g, _one_plus(_mul(a, a))),),
    "sinh": lambda g, node, a: (_mul(g, operation("cosh", a)),),
    "cosh": lambda g, node, a: (_mul(g, operation("sinh", a)),),
    "asinh": lambda g, node, a: _over_root(g, _one_plus(_mul(a, a))),
    "acosh": lambda g, node, a: _over_root(g, operation("sub", _mul(a, a), ONE)),
    "atanh": lambda g, node, a: (_over(g, _one_minus(_mul(a, a))),),
    "erf": _of_erf(1.0),
    "erfc": _of_erf(-1.0),
    "atan2": _atan2,
    "hypot": _hypot,
    "fmod": _fmod,
    "pow": _pow,
}

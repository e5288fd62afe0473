"""Derivatives equal those of torch.autograd on the same function."""

import pytest
import torch
from hypothesis import assume, given
from torch import Tensor

from pellucid.language import INPUTS, SCORE, constant, derivatives, evaluate, load, operation, trace, walk
from pellucid.language.derivative import RULES
from pellucid.language.evaluate import TORCH
from tests.cases import examples
from tests.language.programs import CAPTURED, NAMES, function, places, programs


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def floats() -> dict[str, Tensor]:
    """The captured float tensors, each needing a gradient."""
    return {name: t.clone().requires_grad_() for name, t in CAPTURED.items() if t.dtype == torch.float64}


def whole_places() -> dict[str, Tensor]:
    """Every place, expanded: torch's clamp has no gradient where its bounds broadcast."""
    inputs = places()
    return {name: tensor.expand(inputs["score"].shape) for name, tensor in inputs.items()}


def gradients(outputs: list[Tensor], upstream: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
    """Of `outputs` with respect to `wanted`: zero where they do not depend on it."""
    if not any(tensor.requires_grad for tensor in outputs):
        return [torch.zeros_like(tensor) for tensor in wanted]
    return list(torch.autograd.grad(outputs, wanted, upstream, allow_unused=True, materialize_grads=True))


def by_autograd(source: str, captured: dict[str, Tensor]) -> list[Tensor]:
    """The gradients of the sum of the function, with respect to the score and to each captured tensor."""
    inputs = whole_places()
    wanted = [inputs["score"].requires_grad_(), *captured.values()]
    total = function(source, captured)(*inputs.values()).expand(inputs["score"].shape).sum()
    assume(total.isfinite())
    return gradients([total], [torch.ones_like(total)], wanted)


def by_expression(source: str, captured: dict[str, Tensor]) -> list[Tensor]:
    """The same, from the derivatives with respect to the score and to what is loaded."""
    inputs = whole_places()
    shape = inputs["score"].shape
    expression = trace(function(source, captured), "score_mod", NAMES)
    loads = [node for node in walk(expression) if node.op == "load" and node.value.requires_grad]
    by_score, *by_load = evaluate(*derivatives(expression, [SCORE, *loads]), inputs=inputs, dtype=torch.float64)
    totals = {id(node.value): torch.zeros_like(node.value) for node in loads}
    for node, gradient in zip(loads, by_load, strict=True):
        total, whole = totals[id(node.value)], gradient.detach().expand(shape)
        if node.args:
            index = evaluate(*node.args, inputs=inputs, dtype=torch.float64)
            total.index_put_([i.expand(shape) for i in index], whole, accumulate=True)
        else:
            total += whole.sum()
    # What is loaded may have been computed from what was captured.
    loaded = {id(node.value): node.value for node in loads}
    return [by_score.expand(shape), *gradients(list(loaded.values()), list(totals.values()), list(captured.values()))]


# Torch shares ties of a clamp in another way, and cannot differentiate bounds that broadcast.
@given(programs("float").filter(lambda source: "clamp(min" not in source))
@examples(400)
def test_a_random_program_has_the_gradients_of_autograd(source):
    captured = floats()
    try:
        exact, found = by_autograd(source, captured), by_expression(source, captured)
    except RuntimeError as error:
        assume("derivative for aten::" not in str(error))  # torch has none of a floor division
        raise
    assume(all(g.isfinite().all() and g.abs().max() < 1e6 for g in exact))
    for mine, gradient in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, gradient, rtol=1e-9, atol=1e-9)


def value(expression, **inputs):
    (found,) = evaluate(expression, inputs={n: torch.tensor(x) for n, x in inputs.items()}, dtype=torch.float64)
    return found.item()


@pytest.mark.parametrize("op", RULES)
@pytest.mark.parametrize("score", [0.37, 1.9, -1.3])
def test_each_rule_is_the_slope(op, score):
    of_two = ("add", "sub", "mul", "truediv", "mod", "minimum", "maximum", "fmod", "atan2", "hypot", "pow")
    arity = {"where": 3, **dict.fromkeys(of_two, 2)}.get(op, 1)
    inside = {
        **dict.fromkeys(("log", "log2", "log10", "sqrt", "pow"), abs),
        **dict.fromkeys(("asin", "acos", "atanh"), lambda x: x / 2),
        "acosh": lambda x: 1 + abs(x),
        "log1p": lambda x: abs(x) - 0.5,
    }
    positive = inside.get(op, float)(score)
    for place in range(arity - 1 if op == "where" else arity):
        args = [constant(0.71), constant(0.71)][: arity - (2 if op == "where" else 1)]
        args.insert(place, SCORE)
        args = [operation("gt", SCORE, constant(0.0)), *args] if op == "where" else args
        expression = operation(op, *args)
        (slope,) = derivatives(expression, [SCORE])
        step = 1e-6
        rise = value(expression, score=positive + step) - value(expression, score=positive - step)
        assert value(slope, score=positive) == pytest.approx(rise / (2 * step), rel=1e-7, abs=1e-8)


def test_every_operation_of_floats_has_a_rule_or_is_flat():
    flat = {"floordiv", "floor", "ceil", "round", "trunc", "largest"}
    not_of_floats = {"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "shl", "shr", "signbit"}
    assert set(RULES) == set(TORCH) - flat - not_of_floats


@pytest.mark.parametrize("op", ["floor", "ceil", "round", "trunc"])
def test_a_step_has_slope_0(op):
    (slope,) = derivatives(operation(op, operation("mul", SCORE, constant(2.0))), [SCORE])
    assert value(slope, score=0.3) == 0.0


def test_a_tie_is_shared_and_a_kink_has_slope_0_as_in_torch():
    for op, expected in (("minimum", 0.5), ("maximum", 0.5)):
        (slope,) = derivatives(operation(op, SCORE, constant(1.5)), [SCORE])
        assert value(slope, score=1.5) == expected
    for source in (lambda score: score.abs(), lambda score: torch.relu(score)):
        (slope,) = derivatives(trace(source, "score_mod", ("score",)), [SCORE])
        assert value(slope, score=0.0) == 0.0


def test_what_does_not_depend_has_gradient_0():
    table = torch.randn(3, dtype=torch.float64)
    other = load(torch.randn(5), (INPUTS["k"],))
    node = load(table, (INPUTS["h"],))
    expression = operation("where", operation("gt", SCORE, node), constant(1.0), constant(2.0))
    assert [repr(d) for d in derivatives(expression, [SCORE, node, other])] == ["0.0", "0.0", "0.0"]


def test_an_expression_may_be_what_is_wanted():
    assert [repr(d) for d in derivatives(SCORE, [SCORE])] == ["1.0"]


def test_a_conversion_to_int_stops_the_gradient():
    expression = trace(lambda score: score.long() * 2.5 + score * 0.5, "score_mod", ("score",))
    (slope,) = derivatives(expression, [SCORE])
    assert value(slope, score=3.7) == 0.5


def test_a_use_inside_an_index_has_no_gradient():
    table = torch.randn(7, dtype=torch.float64)
    expression = load(table, (trace(lambda score: score.long() % 7, "score_mod", ("score",)),))
    (by_score, by_load) = derivatives(expression, [SCORE, expression])
    assert (repr(by_score), repr(by_load)) == ("0.0", "1.0")


def test_what_is_used_many_times_adds_up():
    expression = trace(lambda score: score * score + 3 * score - score / 2, "score_mod", ("score",))
    (slope,) = derivatives(expression, [SCORE])
    assert value(slope, score=1.25) == 2 * 1.25 + 3 - 0.5


SPECIAL = (-torch.inf, -1000.0, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 20.0, 1000.0, torch.inf)
SMOOTH = (
    "silu", "gelu", "softplus", "logsigmoid", "mish", "elu", "selu", "celu", "hardtanh", "relu6", "hardsigmoid",
    "hardswish", "leaky_relu", "softsign", "tanhshrink", "hardshrink", "softshrink",
)  # fmt: skip
OF_ONE = [f"torch.nn.functional.{name}(x)" for name in SMOOTH] + [
    "torch.nn.functional.gelu(x, approximate='tanh')",
    "torch.nn.functional.softplus(x, beta=0.5, threshold=3)",
    "torch.nn.functional.threshold(x, 1.0, 0.25)",
    *(f"torch.{name}(x)" for name in ("sin", "cos", "tan", "atan", "asinh", "erf", "erfc", "expm1", "log1p", "frac")),
    *(f"torch.{name}(x)" for name in ("asin", "acos", "atanh", "acosh", "sinh", "cosh", "sinc", "nan_to_num")),
    "torch.special.ndtr(x)",
    "torch.special.xlogy(0.0 * (x == x), x.abs())",
    "torch.logaddexp(x, 1.0 + 0 * (x > 0))",
    "torch.copysign(x, torch.tensor(-2.0))",
    "torch.linalg.norm(torch.stack([x, 0 * (x > 0) + 0.5 * x]))",
    "torch.clamp(torch.abs(x) + 0.25, max=30.0) ** 1.5",
]


@pytest.mark.parametrize("source", OF_ONE)
def test_values_and_slopes_at_the_ends_and_kinks_are_torchs(source):
    function_ = eval(f"lambda x: {source}", {"torch": torch})
    (slope,) = derivatives(expression := trace(function_, "score_mod", ("score",)), [SCORE])
    for number in SPECIAL:
        x = torch.tensor(number, dtype=torch.float64, requires_grad=True)
        exact = function_(x)
        (gradient,) = torch.autograd.grad(exact, x)
        assert value(expression, score=number) == pytest.approx(exact.item(), rel=1e-13, abs=1e-13, nan_ok=True)
        if gradient == gradient and exact.isfinite():  # torch keeps a sixth in float32
            assert value(slope, score=number) == pytest.approx(gradient.item(), rel=1e-7, abs=1e-300), number

"""Random functions of the score language: what compiled code makes of their values and derivatives, number by number.

What a number may be off by follows from how the function magnifies rounding: it is computed again with every operation
disturbed a little, and where that changes the result, so much is allowed. PELLUCID_FUZZ says how many functions are
drawn; thousands by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from torch import Tensor

from pellucid.engines.cpu.machine.target import host
from pellucid.language import SCORE, Expression, Interval, bounds, derivatives, evaluate, trace, walk
from pellucid.language.evaluate import TORCH
from tests.engines.cpu.lowered import computed
from tests.fuzz.budget import fuzzed
from tests.language.programs import BATCH, CAPTURED, HEADS, K_LEN, NAMES, Q_LEN, function, places, programs

# Of these the result is one of the arguments, or as exact as they are.
EXACT = {"neg", "abs", "where", "minimum", "maximum", "floor", "ceil", "round", "trunc", "largest"}
LENGTHS = {"b": BATCH, "h": HEADS, "q": Q_LEN, "k": K_LEN}
SPECIAL = (0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, 1e30, -1e-30, 88.0, -700.0)


@pytest.fixture(autouse=True, scope="module")
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def inputs() -> dict[str, Tensor]:
    """Every place; among the scores are zeros, infinities and NaN."""
    made = places()
    made["score"].flatten()[:: 462 // len(SPECIAL)][: len(SPECIAL)].copy_(torch.tensor(SPECIAL))
    return made


class Noise:
    """Operations whose results are off by a little, and where one of them was smaller than a float32 can be."""

    def __init__(self, size: float, shape: torch.Size) -> None:
        self.size, self.tiny = size, torch.zeros(shape, dtype=torch.bool)
        self.generator = torch.Generator().manual_seed(0)

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor, each float off by its own amount."""
        off = torch.rand(tensor.shape, generator=self.generator, dtype=torch.float64) * 2 - 1
        return tensor * (1 + self.size * off) if tensor.is_floating_point() else tensor

    def around(self, name: str, operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The operation, disturbed."""

        def disturbed(*args: Any) -> Tensor:
            result = operation(*args)
            if result.is_floating_point():
                self.tiny |= ((result != 0) & (result.abs() < 1.2e-38)).expand(self.tiny.shape)
            return result if name in EXACT else self.of(result)

        return disturbed


def undisturbed(expression: Expression, noise: float) -> tuple[Tensor, Tensor]:
    """The expression's values, and how far they are moved by noise: infinitely where nothing can be said."""
    at = inputs()
    shape = torch.broadcast_shapes(*(t.shape for t in at.values()))
    (exact,) = (v.expand(shape).double() for v in evaluate(expression, inputs=at, dtype=torch.float64))
    moved = torch.zeros(shape)
    disturbance = Noise(noise, shape)
    for _ in range(3):
        off = {"score": disturbance.of(at["score"])}
        with mock.patch.dict(TORCH, {name: disturbance.around(name, f) for name, f in TORCH.items()}):
            (value,) = evaluate(_noisy_loads(expression, disturbance), inputs=at | off, dtype=torch.float64)
        moved = torch.maximum(moved, difference(value.expand(shape).double(), exact))
    return exact, torch.where(disturbance.tiny, torch.inf, moved)


def _noisy_loads(root: Expression, noise: Noise) -> Expression:
    """The expression with captured floats and constants disturbed."""
    made: dict[int, Expression] = {}
    for node in walk(root):
        value = node.value
        if node.kind == "float" and node.op == "load":
            value = noise.of(value.double())
        made[id(node)] = Expression(node.op, node.kind, tuple(made[id(a)] for a in node.args), value)
    return made[id(root)]


def difference(value: Tensor, exact: Tensor) -> Tensor:
    """How far apart; infinitely where only one is a number."""
    same = (value == exact) | (value.isnan() & exact.isnan())
    return torch.where(same, 0.0, value - exact).abs().nan_to_num(nan=torch.inf)


def fits_32_bits(*roots: Expression) -> bool:
    """Whether an engine may compute the expressions' ints in 32 bits."""
    whole = {name: Interval(0, length - 1) for name, length in LENGTHS.items()}
    found = [bounds(node, whole) for node in walk(*roots) if node.kind == "int"]
    return all(x is not None and x.low >= -(2**31) and x.high < 2**31 for x in found)


def check(expression: Expression, source: str) -> None:
    """Compiled values in each precision are as near as rounding lets them be."""
    if not host().half and any(node.op == "load" and node.value.dtype == torch.float16 for node in walk(expression)):
        return  # the portable engine's, on such a processor
    for dtype in (torch.float64, torch.float32):
        unit = torch.finfo(dtype).eps
        exact, moved = undisturbed(expression, 16 * unit)
        (peer,) = evaluate(expression, inputs=inputs() | {"score": inputs()["score"].to(dtype)}, dtype=dtype)
        allowed = 8 * moved + 2 * difference(peer.expand(exact.shape).double(), exact) + 16 * unit * exact.abs()
        for narrow in (False, True)[: 1 + fits_32_bits(expression)]:
            (found,) = computed(expression, inputs=inputs(), dtype=dtype, narrow=narrow)
            apart = difference(found.double(), exact)
            wrong = ~(apart <= allowed) & ~allowed.isnan()
            where = wrong.nonzero()[:3].tolist()
            assert not wrong.any(), (
                source,
                dtype,
                narrow,
                where,
                found[wrong][:3],
                exact[wrong][:3],
                allowed[wrong][:3],
            )


@fuzzed(0.18)
@given(programs())
def test_compiled_values(source: str) -> None:
    check(trace(function(source), "score_mod", NAMES), source)


@fuzzed(0.06)
@given(programs("float", depth=3))
def test_compiled_derivatives(source: str) -> None:
    captured = {n: t.clone().requires_grad_() if t.is_floating_point() else t for n, t in CAPTURED.items()}
    expression = trace(function(source, captured), "score_mod", NAMES)
    loads = [node for node in walk(expression) if node.op == "load" and node.value.requires_grad]
    with torch.no_grad():
        for slope in derivatives(expression, [SCORE, *loads[:2]]):
            check(slope, source)

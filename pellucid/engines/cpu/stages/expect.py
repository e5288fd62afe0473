"""Expect: one more sum, of weights times a function of the place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pellucid.engines.cpu.expression.program import always_finite, condition_of
from pellucid.engines.cpu.machine.builder import Value
from pellucid.engines.cpu.stages.gradient import Back, Carried, GradientStage, Weights, number_of_row
from pellucid.engines.cpu.stages.stage import Found, Reading, Stage, Vector
from pellucid.language import Expression
from pellucid.problem import Problem

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.backward.kernel import Backward
    from pellucid.engines.cpu.kernels.block import Block


@dataclass(frozen=True)
class ExpectStage(Stage):
    """The sum of one function of the program."""

    root: str

    @property
    def sums(self) -> tuple[str, ...]:
        """One, under the function's name."""
        return (self.root,)

    def terms(self, vector: Vector) -> Iterator[Callable[[Value], Value]]:
        """Weight times value; of a condition, weight where it holds."""
        forward = vector.forward
        code, expression, weight = forward.code, forward.program.roots[self.root], vector.weight
        functions, exists = vector.functions, vector.exists
        condition = condition_of(expression)
        if condition is not None:
            holds = code.spread(functions.value(condition, exists), forward.lanes)
            yield lambda total: code.select(holds, total + weight, total)
            return
        value = code.spread(functions.value(expression, exists), forward.lanes)
        yield partial(code.fma, weight, counted(expression, weight, value))


def counted(expression: Expression, weight: Value, value: Value) -> Value:
    """A function's values, but for what may be anything where a weight is 0, as at a masked key."""
    return value if always_finite(expression) else value.code.select(weight == 0.0, 0.0, value)


@dataclass(frozen=True)
class FunctionStage(GradientStage):
    """A function of the program, which has the stage's name, times a number of the row if there is one."""

    has_factor: bool

    @property
    def arguments(self) -> tuple[str, ...]:
        """That number."""
        return (f"{self.name}_factor",) if self.has_factor else ()

    def known(self, backward: Backward, block: Block, row: Value) -> Value | None:
        """The number."""
        return number_of_row(backward, f"{self.name}_factor", block, row) if self.has_factor else None

    def upstream(self, weights: Weights, known: Value | None, so_far: Value) -> Value:
        """With the function's values."""
        code, expression = weights.backward.code, weights.backward.program.roots[self.name]
        condition = condition_of(expression)
        if condition is not None and known is not None:
            holds = code.spread(weights.functions.value(condition, weights.exists), weights.backward.lanes)
            return code.select(holds, so_far + known, so_far)
        value = code.spread(weights.functions.value(expression, weights.exists), weights.backward.lanes)
        value = counted(expression, weights.weight, value)
        return so_far + value if known is None else code.fma(value, known, so_far)

    def of_functions(self, weights: Weights, known: Value | None) -> dict[str, Value]:
        """Each weight times the number of the row; what has none captured upstream gradients alone."""
        return {} if known is None else {self.name: weights.weight * known}


@dataclass(frozen=True)
class ExpectReading(Reading):
    """One function."""

    root: str

    @classmethod
    def of(cls, readout: Any, problem: Problem, roots: Sequence[str]) -> ExpectReading:
        """By the function's name in the program."""
        return cls(readout.name, *roots)

    @property
    def stage(self) -> ExpectStage:
        """One sum."""
        return ExpectStage(self.root)

    def result(self, readout: Any, found: Found) -> Tensor:
        """The sum, normalised."""
        result: Tensor = readout.finish((found.sums[self.root],), found.rows)
        return result

    carries = True

    def carried(self, name: str, readout: Any, back: Back) -> Carried:
        """D E / d score = weight (f - E)."""
        factor = {f"{name}_factor": back.gradient}
        return Carried(FunctionStage(name, True), -back.gradient * back.result, factor, function=readout.expression)

"""Expect: one more sum, of weights times a function of the place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from pellucid.engines.cpu.expression.program import always_finite, condition_of
from pellucid.engines.cpu.machine.builder import Value
from pellucid.engines.cpu.stages.stage import Found, Reading, Stage, Vector
from pellucid.problem import Problem


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
        if not always_finite(expression):  # at a masked key
            value = code.select(weight == 0.0, 0.0, value)
        yield partial(code.fma, weight, value)


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

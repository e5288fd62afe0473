"""Renyi: one more sum, of a function of each score's distance from the maximum that depends on the order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.engines.cpu.expression import vectormath
from pellucid.engines.cpu.machine.builder import Value
from pellucid.engines.cpu.stages.entropy import EntropyStage, carried_entropy
from pellucid.engines.cpu.stages.gradient import Back, Carried, GradientStage, Weights, number_of_row
from pellucid.engines.cpu.stages.stage import LOWEST, Found, Reading, Stage, Vector
from pellucid.problem import Problem
from pellucid.readouts.renyi import NEAR

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.backward.kernel import Backward
    from pellucid.engines.cpu.kernels.block import Block
    from pellucid.engines.cpu.kernels.forward import Forward

SMALLEST = 2.0**-126  # normal number of float32


@dataclass(frozen=True)
class CountStage(Stage):
    """Order 0: how many keys are allowed."""

    @property
    def sums(self) -> tuple[str, ...]:
        """The count."""
        return ("count",)

    def terms(self, vector: Vector) -> Iterator[Callable[[Value], Value]]:
        """One for each key that is not masked."""
        code, nothing = vector.forward.code, vector.score == -math.inf
        yield lambda count: code.select(nothing, count, count + 1.0)

    def factor(self, forward: Forward, correction: Value, drift: Callable[[], Value]) -> Value:
        """A count stays as it is."""
        return forward.code.constant(forward.type, 1.0)


@dataclass(frozen=True)
class PowerStage(Stage):
    """The sum of e^(order d), d being the distance."""

    order: float
    relative = True

    @property
    def sums(self) -> tuple[str, ...]:
        """One for the order."""
        return (f"power {self.order!r}",)

    def terms(self, vector: Vector) -> Iterator[Callable[[Value], Value]]:
        """A power of each weight, from its distance: a small weight's may be large."""
        code, raised = vector.forward.code, vector.distance * self.order
        if self.order < SMALLEST:  # it may be 0 as a number of the kernel: what is masked is multiplied by none
            raised = code.select(vector.distance == -math.inf, -math.inf, raised)
        power = vector.forward.power(raised)
        yield lambda total: total + power

    def factor(self, forward: Forward, correction: Value, drift: Callable[[], Value]) -> Value:
        """The same power of the correction."""
        return forward.power(drift() * self.order)


@dataclass(frozen=True)
class NearStage(Stage):
    """Orders near 1, as the readout writes them: the sum of e^(least d) expm1(bend d) / bend."""

    order: float
    relative = True

    @property
    def sums(self) -> tuple[str, ...]:
        """One for the order."""
        return (f"near {self.order!r}",)

    def terms(self, vector: Vector) -> Iterator[Callable[[Value], Value]]:
        """Nothing where masked."""
        code, distance = vector.forward.code, vector.distance
        finite = code.select(distance < LOWEST, LOWEST, distance)
        power = vector.weight if self.order >= 1 else vector.forward.power(finite * self.order)
        yield partial(code.fma, power, self._bent(vector.forward, finite))

    def moved(self, forward: Forward, own: Value, total: Value, drift: Callable[[], Value]) -> Value:
        """Each distance has grown by as much, in both powers."""
        own = own * forward.power(drift() * (self.order - 1.0)) if self.order > 1 else own
        return forward.code.fma(total, self._bent(forward, drift()), own)

    def factor(self, forward: Forward, correction: Value, drift: Callable[[], Value]) -> Value:
        """The smaller power of the correction."""
        return correction if self.order >= 1 else forward.power(drift() * self.order)

    def _bent(self, forward: Forward, distance: Value) -> Value:
        """expm1(bend d) / bend."""
        bend = abs(self.order - 1.0)
        return vectormath.expm1(forward.code, distance * (bend * forward.unit)) * (1.0 / bend)


@dataclass(frozen=True)
class PowerGradient(GradientStage):
    """Of other orders: a number of the row times w - e^(order d) / S, S being the sum; w as in EntropyGradient."""

    order: float
    apart: bool

    @property
    def arguments(self) -> tuple[str, ...]:
        """The number, what is added to `order` times the logarithm of the weight, and to that for w's."""
        return tuple(f"{self.name}_{what}" for what in ("factor", "shift", "share"))

    def known(self, backward: Backward, block: Block, row: Value) -> tuple[Value, ...]:
        """All three, the first of logarithms counted in `unit`."""
        factor, shift, share = (number_of_row(backward, name, block, row) for name in self.arguments)
        return factor, shift * (1.0 / backward.unit), share

    def slope(self, weights: Weights, known: tuple[Value, ...], so_far: Value) -> Value:
        """With the difference of two that are no larger than 1."""
        backward, code, (factor, shift, share) = weights.backward, weights.backward.code, known
        raised = code.fma(weights.logarithm, code.constant(backward.type, self.order), shift)
        if self.order < SMALLEST:  # as in PowerStage
            raised = code.select(weights.logarithm == -math.inf, -math.inf, raised)
        weight = backward.power(weights.of_share(share)) if self.apart else weights.weight
        return code.fma(weight - backward.power(code.minimum(0.0, raised)), factor, so_far)


@dataclass(frozen=True)
class RenyiReading(Reading):
    """The order; whether a sink counts is the readout's: it is no key."""

    order: float

    @classmethod
    def of(cls, readout: Any, problem: Problem, roots: Sequence[str]) -> RenyiReading:
        """By the order."""
        return cls(readout.name, readout.order)

    @property
    def stage(self) -> Stage | None:
        """The sum of an order; infinity asks for no more than the softmax has, and 1 for what Shannon's does."""
        if self.order in (0.0, math.inf):
            return CountStage() if self.order == 0 else None
        if self.order == 1:
            return EntropyStage()
        return NearStage(self.order) if abs(self.order - 1.0) < NEAR else PowerStage(self.order)

    def result(self, readout: Any, found: Found) -> Tensor:
        """From the sum."""
        sums = found.rows.keys.total if self.stage is None else found.sums[self.stage.sums[0]]
        result: Tensor = readout.finish((sums,), found.rows)
        return result

    @property
    def carries(self) -> bool:
        """At infinity the gradient is shared by all that are largest, which no second computation can tell."""
        return self.order < math.inf

    def carried(self, name: str, readout: Any, back: Back) -> Carried:
        """By the order."""
        if self.order == 0:
            return Carried(None, torch.zeros_like(back.gradient), of_sinks=0.0)
        if abs(self.order - 1.0) < NEAR:
            return carried_entropy(name, readout, back, self._sum, self.order)
        found, factor = back.found, back.gradient * (self.order / (self.order - 1.0))
        apart, nothing = not readout.sink and found.rows.sink is not None, torch.zeros_like(back.gradient)
        numbers = factor, self._shift(readout, back), back.log_share if apart else nothing
        stage = PowerGradient(name, self.order, apart)
        of_sinks = readout.sink_gradient(back.gradient, (found.sums[self._sum],), found.rows)
        return Carried(stage, nothing, dict(zip(stage.arguments, numbers, strict=True)), of_sinks=of_sinks)

    def _shift(self, readout: Any, back: Back) -> Tensor:
        """Log of e^(a d) / S, d the distance from the largest that counts, less a times that of the weight."""
        sums, softmax = readout.outcomes((back.found.sums[self._sum],), back.found.rows)
        whole, seen = back.found.rows.whole, softmax.total > 0
        logarithm = (whole.shift - softmax.shift).double() + whole.divisor.double().log()
        return (self.order * logarithm - sums.where(seen, 1.0).double().log()).to(back.dtype)

    @property
    def _sum(self) -> str:
        assert self.stage is not None
        return self.stage.sums[0]

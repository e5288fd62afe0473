"""Entropy: one more sum, t = sum of exp(s - m) (s - m)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.engines.cpu.expression import vectormath
from pellucid.engines.cpu.machine.builder import Value
from pellucid.engines.cpu.stages.gradient import Back, Carried, GradientStage, Weights, number_of_row
from pellucid.engines.cpu.stages.stage import LOWEST, Found, Reading, Stage, Vector

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.backward.kernel import Backward
    from pellucid.engines.cpu.kernels.block import Block
    from pellucid.engines.cpu.kernels.forward import Forward

SUM = "entropy"


@dataclass(frozen=True)
class EntropyStage(Stage):
    """Each weight times its distance from the maximum."""

    relative = True

    @property
    def sums(self) -> tuple[str, ...]:
        """One."""
        return (SUM,)

    def terms(self, vector: Vector) -> Iterator[Callable[[Value], Value]]:
        """Weight times distance."""
        code = vector.forward.code
        finite = code.select(vector.distance < LOWEST, LOWEST, vector.distance)
        yield lambda total: code.fma(vector.weight, finite, total)

    def moved(self, forward: Forward, own: Value, total: Value, drift: Callable[[], Value]) -> Value:
        """Each distance has grown by as much."""
        return forward.code.fma(total, drift(), own)

    def natural(self, forward: Forward, own: Value) -> Value:
        """In nats."""
        return own * forward.unit


@dataclass(frozen=True)
class EntropyGradient(GradientStage):
    """That of an order a around 1, as the readout Renyi writes it: d H / d score = w^l f(log w + H) times a number.

    Here l is the less of a and 1, f(d) = expm1(|a - 1| d) / |a - 1|, or d at 1, and w the weight; `apart`, where a sink
    is no outcome, its share of those of the keys, which may be a large part of one too small for a number.
    """

    order: float = 1.0
    apart: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """The number, H, and what is added to the logarithm of the weight for that of w."""
        return tuple(f"{self.name}_{what}" for what in ("factor", "entropy", "share"))

    def known(self, backward: Backward, block: Block, row: Value) -> tuple[Value, ...]:
        """All three."""
        return tuple(number_of_row(backward, name, block, row) for name in self.arguments)

    def upstream(self, weights: Weights, known: tuple[Value, ...], so_far: Value) -> Value:
        """What the weight itself is multiplied by."""
        if self.apart or self.order < 1:
            return so_far
        factor, entropy, _ = known
        return weights.backward.code.fma(self._bent(weights, weights.finite, entropy), factor, so_far)

    def slope(self, weights: Weights, known: tuple[Value, ...], so_far: Value) -> Value:
        """With what is multiplied by a power of w."""
        if not (self.apart or self.order < 1):
            return so_far
        factor, entropy, _ = known
        logarithm = weights.of_share(known[2]) if self.apart else weights.finite
        power = weights.backward.power(logarithm * min(self.order, 1.0))
        return weights.backward.code.fma(power * factor, self._bent(weights, logarithm, entropy), so_far)

    def _bent(self, weights: Weights, logarithm: Value, entropy: Value) -> Value:
        code, bend = weights.backward.code, abs(self.order - 1.0)
        distance = code.fma(logarithm, code.constant(logarithm.type, weights.backward.unit), entropy)
        return vectormath.expm1(code, distance * bend) * (1.0 / bend) if bend else distance


def carried_entropy(name: str, readout: Any, back: Back, sum_: str = SUM, order: float = 1.0) -> Carried:
    """What the gradient of an entropy of an order around 1 comes to.

    Args:
        name: of the stage.
        readout: whose result it is.
        back: what it is made from.
        sum_: the name of the forward stage's sum.
        order: of the entropy.

    """
    apart = not readout.sink and back.found.rows.sink is not None
    nothing = torch.zeros_like(back.gradient)
    factor = ((min(order, 1.0) - 1.0) * back.result).exp() * back.gradient * -order
    numbers = factor, back.result, back.log_share if apart else nothing
    stage = EntropyGradient(name, order, apart)
    of_sinks = readout.sink_gradient(back.gradient, (back.found.sums[sum_],), back.found.rows)
    return Carried(stage, nothing, dict(zip(stage.arguments, numbers, strict=True)), of_sinks=of_sinks)


class EntropyReading(Reading):
    """Whether a sink counts is the readout's: it is no key."""

    @property
    def stage(self) -> EntropyStage:
        """One sum."""
        return EntropyStage()

    def result(self, readout: Any, found: Found) -> Tensor:
        """From the sum, which counts nats."""
        result: Tensor = readout.finish((found.sums[SUM],), found.rows)
        return result

    carries = True

    def carried(self, name: str, readout: Any, back: Back) -> Carried:
        """As of Shannon's."""
        return carried_entropy(name, readout, back)

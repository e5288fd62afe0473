"""Entropy: one more sum, t = sum of exp(s - m) (s - m)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pellucid.engines.cpu.machine.builder import Value
from pellucid.engines.cpu.stages.stage import LOWEST, Found, Reading, Stage, Vector

if TYPE_CHECKING:
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

"""MaxScore: the softmax's own maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.engines.cpu.machine.builder import I32, Value
from pellucid.engines.cpu.stages.gradient import Back, Carried, GradientStage, Weights, number_of_row
from pellucid.engines.cpu.stages.stage import Found, Reading
from pellucid.engines.rounded import places
from pellucid.problem import Problem
from pellucid.readouts import TopK
from pellucid.softmax import largest

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.backward.kernel import Backward
    from pellucid.engines.cpu.kernels.block import Block


@dataclass(frozen=True)
class KeyStage(GradientStage):
    """A number of the row, added to the gradient of one score."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """That number, and the score's key."""
        return f"{self.name}_number", f"{self.name}_key"

    def known(self, backward: Backward, block: Block, row: Value) -> tuple[Value, Value]:
        """Both, in every lane."""
        number = number_of_row(backward, f"{self.name}_number", block, row)
        place = block.task.pair * backward.q_len + block.row + row
        key = backward.code.load(backward.pointer(f"{self.name}_key"), I32, place)
        return number, backward.code.spread(backward.index(key), backward.lanes)

    def slope(self, weights: Weights, known: tuple[Value, Value], so_far: Value) -> Value:
        """With the number where the key is."""
        number, key = known
        return so_far + weights.backward.code.select(weights.keys == key, number, 0.0)


class MaxScoreReading(Reading):
    """Nothing is kept beside the softmax."""

    def result(self, readout: Any, found: Found) -> Tensor:
        """The maximum of each row."""
        maximum: Tensor = readout.finish((), found.rows)
        _see_nan(found.problem, maximum)
        return maximum

    carries = True

    def carried(self, name: str, readout: Any, back: Back) -> Carried:
        """All of it to the key that is largest, of equal ones the first."""
        keys = back.read(TopK(1)).keys[..., 0].to(torch.int32)
        tensors = {f"{name}_number": back.gradient, f"{name}_key": keys}
        return Carried(KeyStage(name), torch.zeros_like(back.gradient), tensors)


def _see_nan(problem: Problem, maximum: Tensor) -> None:
    """Look at rows again whose maximum is +inf: of +inf and NaN in one row the kernel has kept +inf."""
    infinite = maximum == torch.inf
    for rows in places(infinite, problem.k_len):
        seen = largest(problem.scores(rows))
        maximum[..., rows] = torch.where(infinite[..., rows], seen, maximum[..., rows])

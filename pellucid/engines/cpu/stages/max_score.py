"""MaxScore: the softmax's own maximum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.engines.cpu.stages.stage import Found, Reading
from pellucid.engines.rounded import places
from pellucid.problem import Problem
from pellucid.softmax import largest


class MaxScoreReading(Reading):
    """Nothing is kept beside the softmax."""

    def result(self, readout: Any, found: Found) -> Tensor:
        """The maximum of each row."""
        maximum: Tensor = readout.finish((), found.rows)
        _see_nan(found.problem, maximum)
        return maximum


def _see_nan(problem: Problem, maximum: Tensor) -> None:
    """Look at rows again whose maximum is +inf: of +inf and NaN in one row the kernel has kept +inf."""
    infinite = maximum == torch.inf
    for rows in places(infinite, problem.k_len):
        seen = largest(problem.scores(rows))
        maximum[..., rows] = torch.where(infinite[..., rows], seen, maximum[..., rows])

"""A problem is executed by an engine, or becomes a node of the graph that is being made."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid import engines, reference
from pellucid.engines import graph
from pellucid.problem import Problem, Result
from pellucid.tensors.transformed import is_inside


def executed(problem: Problem) -> Result:
    """Attention and its readouts, as the caller's surroundings want them: computed, or recorded."""
    if torch.compiler.is_compiling():
        if is_inside():  # the operator is not looked through: a tangent would be dropped without a word
            with problem.own_precision():
                return reference.run(problem)
        return graph.run(problem) if graph.holds(problem) else torch.compiler.disable(_execute)(problem)
    return graph.run(problem) if graph.is_wanted(problem) else _execute(problem)


def joined(problem: Problem, output: Tensor, lse: Tensor) -> Result | None:
    """See `engines.joined`; None also where the call is to be recorded."""
    if torch.compiler.is_compiling() or graph.is_wanted(problem):
        return None
    engines.warn_if_slow(problem)
    with problem.own_precision():
        return engines.joined(problem, output, lse)


def _execute(problem: Problem) -> Result:
    engines.warn_if_slow(problem)
    with problem.own_precision():
        return engines.run(problem)

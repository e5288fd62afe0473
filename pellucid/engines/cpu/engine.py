"""The engine itself: a Problem goes to a kernel by its plan, and what the kernel wrote becomes a Result."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.engines.cpu.call.plan import Inputs, Plan, plan_of
from pellucid.engines.cpu.call.received import received_by
from pellucid.engines.rounded import places
from pellucid.problem import Problem, Result
from pellucid.readouts import MaxScore, Pooled, PooledMax
from pellucid.softmax import largest


def run(problem: Problem) -> Result:
    """Attention and its readouts, without gradients."""
    return _result(problem, *plan_of(problem))


def repeat(problem: Problem, shape: tuple[int, ...]) -> Repeat:
    """What runs problems like this one again, their output in `shape`."""
    return Repeat(plan_of(problem)[0], shape)


class Repeat(NamedTuple):
    """What runs problems that differ from one that was seen in their numbers alone, and looks at nothing else."""

    plan: Plan
    shape: tuple[int, ...]

    def output(
        self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, captured: tuple[Tensor, ...]
    ) -> Tensor:
        """The output alone, in `shape`.

        Args:
            query: laid out as in the call that was seen, as all of these.
            key: see `query`.
            value: see `query`.
            sinks: [heads], if that call had any.
            captured: by the functions, in the order of `captured_by`.

        Raises:
            AddressError: see `Prepared.run`.

        """
        return self.plan.run(Inputs(query, key, value, sinks, captured), self.shape).output

    def result(self, problem: Problem) -> Result:
        """The whole result; `problem`'s functions capture nothing."""
        return _result(problem, self.plan, Inputs(problem.query, problem.key, problem.value, problem.sinks, ()))


def _result(problem: Problem, plan: Plan, inputs: Inputs) -> Result:
    output, state, pooled = plan.run(inputs, (*plan.rows, plan.spec.value_dim))
    if state is None:
        return Result(output, output.new_empty(0), {})
    rows = state.rows(problem.sinks)
    lse = rows.whole.lse
    readings = state.readings(problem, rows, lse) | received_by(problem, lse)
    readings |= {
        r.name: r.finish(pooled[r.name], problem) for r in problem.readouts if isinstance(r, Pooled | PooledMax)
    }
    for readout in problem.readouts:
        if isinstance(readout, MaxScore):
            _see_nan(problem, readings[readout.name])
    return Result(output, lse, {readout.name: readings[readout.name] for readout in problem.readouts})


def _see_nan(problem: Problem, maximum: Tensor) -> None:
    """Look at rows again whose maximum is +inf: of +inf and NaN in one row the kernel has kept +inf."""
    infinite = maximum == torch.inf
    for rows in places(infinite, problem.k_len):
        seen = largest(problem.scores(rows))
        maximum[..., rows] = torch.where(infinite[..., rows], seen, maximum[..., rows])

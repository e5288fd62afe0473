"""The engine itself: a Problem goes to a kernel by its plan, and what the kernel wrote becomes a Result."""

from __future__ import annotations

from pellucid.engines.cpu.plan import plan_of
from pellucid.engines.cpu.sums import column_sums
from pellucid.problem import Problem
from pellucid.result import Result


def run(problem: Problem) -> Result:
    """Attention and its readouts, without gradients."""
    plan, inputs = plan_of(problem)
    output, state = plan.run(inputs, (*plan.rows, plan.spec.value_dim))
    if not problem.readouts:
        return Result(output, output.new_empty(0), {})
    rows = state.rows(problem.sinks)
    lse = rows.whole.lse
    readings = state.readings(problem, rows) | column_sums(problem, lse)
    return Result(output, lse, {readout.name: readings[readout.name] for readout in problem.readouts})

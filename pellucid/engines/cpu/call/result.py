"""What a plan's kernel wrote, made into a Result."""

from __future__ import annotations

from pellucid.engines.cpu.call.columns import columns_of
from pellucid.engines.cpu.call.plan import Inputs, Plan
from pellucid.engines.cpu.stages.stage import Found
from pellucid.problem import Problem, Result
from pellucid.readouts.base import Rows
from pellucid.softmax import Softmax


def read(problem: Problem, plan: Plan, inputs: Inputs) -> tuple[Result, Found]:
    """The result of a problem with readouts, and what it was made from."""
    output, written = plan.run(inputs, (*plan.rows, plan.spec.value_dim))
    sums = dict(zip(plan.spec.accumulators, written["state"], strict=True))
    sink = None if problem.sinks is None else problem.sinks.detach().to(plan.number)[:, None]
    rows = Rows(Softmax(sums["maximum"], sums["total"]), sink)
    lse = rows.whole.lse
    columns = columns_of(problem, plan.readings, lse)
    found = Found(problem, sums, written, plan.prepared.queries, rows, lse, columns)
    both = zip(problem.readouts, plan.readings, strict=True)
    return Result(output, lse, {readout.name: reading.result(readout, found) for readout, reading in both}), found

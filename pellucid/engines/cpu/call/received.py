"""What the keys received: sums over the queries, from a second sweep with the final lse."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pellucid import reference
from pellucid.engines.cpu.call.arguments import RANGES, call
from pellucid.engines.cpu.call.specify import program_of, spec_of
from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.kernels.received import Columns
from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine.target import Target
from pellucid.engines.rounded import is_rounded, places
from pellucid.problem import Problem
from pellucid.readouts import Received


def received_by(problem: Problem, lse: Tensor) -> dict[str, Tensor]:
    """The result of Received by its name, if it is asked for; `lse` is [*batch, heads, q_len]."""
    wanted = [readout for readout in problem.readouts if isinstance(readout, Received)]
    if not wanted:
        return {}
    (readout,) = wanted
    spec, program = for_columns(problem)
    sums = readout.start(problem)
    partial = sums.new_zeros(RANGES, *sums.shape)
    chosen = range(problem.q_len)[readout.queries]
    rounded = is_rounded(lse)
    known = lse.masked_fill(rounded, torch.inf)  # of which every weight is 0
    own = {"received_first": chosen.start, "received_stop": chosen.stop, "received_step": chosen.step}
    output = problem.query.new_empty(*problem.batch, problem.heads, 1, 1)
    call(problem, Columns, program, spec, own, {"lse": known}, {"received": partial, "output": output})
    sums = partial[0]
    for part in partial[1:]:  # in this order: torch's own sum chooses one by shape and threads
        sums.add_(part)
    every = (torch.arange(problem.k_len, device="cpu"), torch.arange(problem.heads, device="cpu"))
    for rows in places(rounded, problem.k_len):
        weights = reference.weights(problem, rows, *every) * rounded[..., rows, None]
        readout.update(sums, weights, problem.place(rows), problem)
    nan = lse[..., readout.queries].isnan().any(-1, keepdim=True)  # also where the kernel has skipped a tile
    return {readout.name: readout.finish(torch.where(nan, torch.nan, sums), problem)}


def for_columns(problem: Problem, target: Target | None = None) -> tuple[Spec, Program]:
    """What the columns kernel is compiled for."""
    problem = replace(problem, readouts=())
    program = program_of(problem)
    return replace(spec_of(problem, program, target), received=True), program

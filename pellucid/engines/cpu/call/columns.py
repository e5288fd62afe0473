"""The second sweep over all keys, with final weights: the call of the columns kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from pellucid import reference
from pellucid.engines.cpu.call.arguments import RANGES, call
from pellucid.engines.cpu.call.specify import program_of, spec_of
from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.kernels.columns import Columns
from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine.target import Target
from pellucid.engines.cpu.stages.stage import Reading
from pellucid.engines.rounded import is_rounded, places
from pellucid.problem import Problem
from pellucid.readouts import ColumnReadout


def columns_of(problem: Problem, readings: Sequence[Reading], lse: Tensor) -> dict[str, Tensor]:
    """What each reading that has a second stage came to, by its name: the state of its readout over all queries.

    Args:
        problem: the call.
        readings: of its readouts, in their order.
        lse: of every row, [*batch, heads, q_len].

    """
    wanted = {r.name: (r, s.second) for r, s in zip(problem.readouts, readings, strict=True) if s.second is not None}
    if not wanted:
        return {}
    sums = {name: cast(ColumnReadout, readout).start(problem) for name, (readout, _) in wanted.items()}
    parts = {name: own.new_zeros(RANGES, *own.shape) for name, own in sums.items()}
    made = {stage.written: parts[name] for name, (_, stage) in wanted.items()}
    made["output"] = problem.query.new_empty(*problem.batch, problem.heads, 1, 1)
    rounded = is_rounded(lse)
    known = lse.masked_fill(rounded, torch.inf)  # of which every weight is 0
    spec, program = for_columns(problem, readings)
    call(problem, Columns, program, spec, readings, {}, {"lse": known}, made)
    for name, of_ranges in parts.items():
        for part in of_ranges:  # in this order: torch's own sum chooses one by shape and threads
            sums[name].add_(part)
    every = (torch.arange(problem.k_len, device="cpu"), torch.arange(problem.heads, device="cpu"))
    for rows in places(rounded, problem.k_len):
        weights = reference.weights(problem, rows, *every) * rounded[..., rows, None]
        for name, (readout, _) in wanted.items():
            cast(ColumnReadout, readout).update(sums[name], weights, problem.place(rows), problem)
    return sums


def for_columns(problem: Problem, readings: Sequence[Reading], target: Target | None = None) -> tuple[Spec, Program]:
    """What the columns kernel is compiled for."""
    stages = tuple(reading.second for reading in readings if reading.second is not None)
    problem = replace(problem, readouts=(), dropout_p=0.0)
    program = program_of(problem)
    return spec_of(problem, program, stages, target), program

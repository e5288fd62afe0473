"""The engine itself: a Problem goes to a kernel, and what the kernel wrote becomes a Result."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pellucid.engines.cpu.call import call, group_of
from pellucid.engines.cpu.decode import Decode
from pellucid.engines.cpu.forward import Forward
from pellucid.engines.cpu.layout import KEYS, Spec
from pellucid.engines.cpu.program import Program
from pellucid.engines.cpu.specify import program_of, spec_of
from pellucid.engines.cpu.state import RowState
from pellucid.engines.cpu.sums import column_sums
from pellucid.problem import Problem
from pellucid.result import Result

MOST_DECODE_ROWS = 16
LEAST_DECODE_KEYS = 64
LEAST_DECODE_RANGE = 1024
DECODE_TASKS = 8


def run(problem: Problem) -> Result:
    """Attention and its readouts, without gradients."""
    program = program_of(problem)
    spec = spec_of(problem, program)
    output, made = (_decoded if _is_decode(problem) else _forwarded)(problem, program, spec)
    if not spec.rows_out:
        return Result(output, output.new_empty(0), {})
    rows = made.rows(problem)
    lse = rows.whole.lse
    readings = made.readings(problem, rows) | column_sums(problem, lse)
    return Result(output, lse, {readout.name: readings[readout.name] for readout in problem.readouts})


def _forwarded(problem: Problem, program: Program, spec: Spec) -> tuple[Tensor, RowState]:
    output = torch.empty(*problem.rows, spec.value_dim, dtype=problem.query.dtype)
    made = RowState.empty(problem, spec)
    call(problem, Forward, program, spec, made.arguments(), output)
    return output, made


def _is_decode(problem: Problem) -> bool:
    """Whether so few rows share each key that packing keys would not pay."""
    group = group_of(problem.heads, problem.key)
    same = group == group_of(problem.heads, problem.value)
    return same and problem.q_len * group <= MOST_DECODE_ROWS and problem.k_len >= LEAST_DECODE_KEYS


def _decoded(problem: Problem, program: Program, spec: Spec) -> tuple[Tensor, RowState]:
    """As `_forwarded`, the keys of a head shared among threads where there are few heads."""
    spec = replace(spec, pairs=False, tiles=False)  # reading is the cost, and pairs want packing
    group = group_of(problem.heads, problem.key)
    pairs = torch.Size(problem.rows[:-1]).numel() // group
    # Not by the number of threads: it would change the last bits of the result.
    wanted = -(-DECODE_TASKS // pairs)
    keys = max(LEAST_DECODE_RANGE, -(-problem.k_len // (wanted * KEYS)) * KEYS)
    ranges = -(-problem.k_len // keys)
    if ranges == 1:
        spec = replace(spec, group=group, queries=problem.q_len)
    else:  # the sink is merged with the whole, not with each part
        spec = replace(spec, group=group, queries=problem.q_len, partial=True, rows_out=True, sinks=False)
    dtype = problem.dtype if spec.partial else problem.query.dtype
    output = torch.empty(ranges, *problem.rows, spec.value_dim, dtype=dtype)
    made = RowState.empty(problem, spec, ranges)
    own = made.arguments() | {"keys_a_range": keys, "output_range": output[0].numel()}
    call(problem, Decode, program, spec, own | {"pairs": pairs, "tasks": pairs * ranges}, output[0])
    if ranges == 1:
        return output[0], made.part(0)
    return _merged(problem, output, made)


def _merged(problem: Problem, outputs: Tensor, made: RowState) -> tuple[Tensor, RowState]:
    """The parts over different ranges of keys as one, by the merge of the online softmax and of each readout."""
    whole, output = made.part(0), outputs[0]
    for part in range(1, len(outputs)):
        whole, output = whole.merged(problem, output, made.part(part), outputs[part])
    share = whole.rows(problem).factor * whole.state[1]  # less than 1 where a sink takes weight
    return (output * share[..., None]).to(problem.query.dtype), whole

"""A plan: everything about a call that does not change with the numbers, decided once and remembered.

Two calls share a plan if their tensors have the same shapes, strides and dtypes, and the functions, readouts, scale and
number of threads are the same. A plan holds no tensor of the call that made it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.engines.cpu.call.arguments import Prepared, captured_by, group_of, in_place, prepare, seed_of, sinks_in
from pellucid.engines.cpu.call.specify import magnitude, program_of, spec_of
from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.kernels.decode import Decode, kept_of_state
from pellucid.engines.cpu.kernels.forward import Forward
from pellucid.engines.cpu.kernels.joining import Joining
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.kernels.one_tile import OneTile, is_one_tile
from pellucid.engines.cpu.layout import DECODE_RANGES, DECODE_TASKS, KEYS, Spec
from pellucid.engines.cpu.machine import memory
from pellucid.engines.cpu.stages.stage import Reading, Sizes
from pellucid.engines.cpu.stages.table import readings_of, stages_of
from pellucid.language import SCORE, TRUE
from pellucid.problem import Problem
from pellucid.tensors.once import forget_oldest

MOST_PLANS = 512
MOST_DECODE_ROWS = 16
LEAST_DECODE_KEYS = 64
LEAST_DECODE_RANGE = 1024


class Inputs(NamedTuple):
    """The tensors of one call, as its problem has them."""

    query: Tensor
    key: Tensor
    value: Tensor
    sinks: Tensor | None
    captured: tuple[Tensor, ...]  # by the functions, in the order of `captured_by`
    seed: int = 0  # of dropout
    into: Into | None = None


class Into(NamedTuple):
    """Rows over other keys, which those of a call become part of."""

    output: Tensor  # [*batch, heads, q_len, value_dim], in the precision of the computation, its rows contiguous
    lse: Tensor  # [*batch, heads, q_len], contiguous


class Written(NamedTuple):
    """What a plan's kernel wrote."""

    output: Tensor
    readings: dict[str, Tensor]  # by argument: "state", each row's sums [accumulators, *batch, heads, q_len], and more


@dataclass(frozen=True)
class Plan:
    """How to run problems like one that was seen: a kernel, and the shapes of what it writes."""

    prepared: Prepared
    spec: Spec
    rows: tuple[int, ...]  # [*batch, heads, q_len]
    dtype: torch.dtype  # of the result
    number: torch.dtype  # of the computation
    batch: tuple[int, ...]
    kept: int  # numbers that are kept of ranges of keys until they are merged
    readings: tuple[Reading, ...]
    in_place: bool  # whether query, key and value can be read where they lie

    @property
    def result_bytes(self) -> int:
        """Memory that the results of one call take."""
        output = torch.empty(*self.rows, self.spec.value_dim, dtype=self.dtype, device="meta")
        return output.nbytes + sum(tensor.nbytes for tensor in self._written("meta").values())

    def run(self, inputs: Inputs, shape: tuple[int, ...]) -> Written:
        """The output, in `shape`, and what was read."""
        tensors = self._readable(inputs)
        if self.spec.sinks:
            assert inputs.sinks is not None
            tensors["sinks"] = sinks_in(inputs.sinks, self.number)
        own, written = dict[str, Tensor](), _NOTHING
        if inputs.into is None:
            output = own["output"] = memory.empty(shape, self.dtype)
        else:
            output, tensors["lse"] = inputs.into
            tensors["output"] = output
        if self.kept:
            own["kept"] = torch.empty(self.kept, dtype=self.number, device="cpu")
        if self.readings:
            written = self._written()
            own |= written
            for reading in self.readings:
                own |= reading.tables(self._sizes())
        self.prepared.run(tensors, own, inputs.captured, inputs.seed)
        return Written(output, written)

    def _written(self, device: str = "cpu") -> dict[str, Tensor]:
        """What the kernel writes for readings, by argument: "state" and what each has more."""
        if not self.readings:
            return {}
        state = torch.empty(len(self.spec.accumulators), *self.rows, dtype=self.number, device=device)
        written = {"state": state}
        for reading in self.readings:
            written |= reading.written(self._sizes(device))
        return written

    def _sizes(self, device: str = "cpu") -> Sizes:
        return Sizes(self.spec, self.rows, self.prepared.queries, self.number, device)

    def _readable(self, inputs: Inputs) -> dict[str, Tensor]:
        tensors = {"query": inputs.query, "key": inputs.key, "value": inputs.value}
        return tensors if self.in_place else {name: in_place(t, self.batch) for name, t in tensors.items()}


_NOTHING: dict[str, Tensor] = {}
_plans: dict[Hashable, Plan] = {}  # the least recently made first


def plan_of(problem: Problem, into: Into | None = None) -> tuple[Plan, Inputs]:
    """The plan for a problem that this engine covers, made at most once, and the problem's tensors for it."""
    readings, functions = readings_of(problem)
    program = program_of(problem, functions)
    captured = captured_by(program) if program.slots else ()
    inputs = Inputs(problem.query, problem.key, problem.value, problem.sinks, captured, seed_of(problem), into)
    signature = _signature(problem, program, inputs, readings)
    plan = _plans.get(signature)
    if plan is None:
        plan = _plan(problem, program, readings, into)
        memory.keep_freed(plan.result_bytes)
        forget_oldest(_plans, MOST_PLANS - 1)
        _plans[signature] = plan
    return plan, inputs


def _signature(problem: Problem, program: Program, inputs: Inputs, readings: tuple[Reading, ...]) -> Hashable:
    """All that a plan depends on; of the numbers in tensors, only how large captured ints are."""
    tensors = [(t.shape, t.stride(), t.dtype) for t in (*inputs[:3], *inputs.captured)]
    sizes = [magnitude(t, problem) for t in inputs.captured]
    plain = problem.score is SCORE and problem.mask is TRUE and len(program.roots) == 2
    return (
        *tensors, *sizes, None if plain else program.description(), readings, problem.sinks is None,
        problem.batch, problem.heads, problem.scale, math.copysign(1, problem.scale),
        problem.dropout_p, torch.get_num_threads(), inputs.into and inputs.into.output.stride(),
    )  # fmt: skip


def _plan(problem: Problem, program: Program, readings: tuple[Reading, ...], into: Into | None) -> Plan:
    query, key, value = (in_place(t, problem.batch) for t in (problem.query, problem.key, problem.value))
    untouched = query is problem.query and key is problem.key and value is problem.value
    ready = replace(problem, query=query, key=key, value=value)
    spec = spec_of(problem, program, stages_of(readings))
    if into is None:
        kernel, spec, own = kernel_of(problem, spec)
        output = torch.empty((*problem.rows, spec.value_dim), device="meta")
    else:
        kernel, spec, own, output = Joining, replace(spec, partial=True), {}, into.output
    kept = own["pairs"] * own["ranges"] * sum(kept_of_state(spec).values()) if spec.shared_out else 0
    prepared = prepare(ready, kernel, program, spec, readings, own, output)
    dtypes = (problem.query.dtype, problem.dtype)
    return Plan(prepared, spec, problem.rows, *dtypes, problem.batch, kept, readings, untouched)


def kernel_of(problem: Problem, spec: Spec) -> tuple[type[Kernel], Spec, dict[str, int]]:
    """The kernel that makes the output, what it is compiled for, and arguments of its own."""
    if is_decode(problem) and not spec.dropout and all(stage.in_decode for stage in spec.stages):
        return Decode, *for_decode(problem, spec)
    if is_one_tile(problem, spec):
        return OneTile, spec, {}
    return Forward, spec, {}


def is_decode(problem: Problem) -> bool:
    """Whether so few rows share each key that packing keys would not pay."""
    group = group_of(problem.heads, problem.key)
    same = group == group_of(problem.heads, problem.value)
    return same and problem.q_len * group <= MOST_DECODE_ROWS and problem.k_len >= LEAST_DECODE_KEYS


def for_decode(problem: Problem, spec: Spec) -> tuple[Spec, dict[str, int]]:
    """The specification and arguments: a head's keys are shared out where they are many."""
    group = group_of(problem.heads, problem.key)
    pairs = math.prod(problem.rows[:-1]) // group
    # Not by the number of threads, nor of heads and batches: it would change the last bits of a row's result.
    keys = max(LEAST_DECODE_RANGE, -(-problem.k_len // (DECODE_RANGES * KEYS)) * KEYS)
    ranges = -(-problem.k_len // keys)
    together = -(-ranges // -(-DECODE_TASKS // pairs))  # in a task: what it asks for at the end of one is the next
    arguments = {"pairs": pairs, "tasks": pairs * -(-ranges // together), "keys_a_range": keys}
    arguments |= {"ranges": ranges, "ranges_a_task": together}
    matrix = spec.matrix and spec.split == 1  # what would be split is faster by vectors
    dots = matrix or (spec.dots and spec.split == 1 and spec.target.dot_pays_in_decode)
    spec = replace(spec, group=group, queries=problem.q_len, dots=dots, matrix=matrix, split=1, whole=False)
    return replace(spec, shared_out=ranges > 1), arguments

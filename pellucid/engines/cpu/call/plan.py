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

from pellucid.engines.cpu.call.arguments import Prepared, captured_by, group_of, in_place, prepare, sinks_in
from pellucid.engines.cpu.call.pooled import Pool, pools_of
from pellucid.engines.cpu.call.rows import RowState
from pellucid.engines.cpu.call.specify import asked, magnitude, program_of, spec_of
from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.kernels.decode import Decode, part_of_state
from pellucid.engines.cpu.kernels.forward import Forward
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.kernels.one_tile import OneTile, is_one_tile
from pellucid.engines.cpu.layout import DECODE_RANGES, DECODE_TASKS, KEYS, Spec
from pellucid.engines.cpu.machine import memory
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


class Written(NamedTuple):
    """What a plan's kernel wrote."""

    output: Tensor
    state: RowState | None  # if there are readouts
    pooled: dict[str, Tensor]  # by readout, [*batch, heads, query bins, key bins]


@dataclass(frozen=True)
class Plan:
    """How to run problems like one that was seen: a kernel, and the shapes of what it writes."""

    prepared: Prepared
    spec: Spec
    rows: tuple[int, ...]  # [*batch, heads, q_len]
    dtype: torch.dtype  # of the result
    number: torch.dtype  # of the computation
    batch: tuple[int, ...]
    parts: int  # numbers that are kept of ranges of keys until they are merged
    pools: tuple[Pool, ...]
    in_place: bool  # whether query, key and value can be read where they lie

    @property
    def result_bytes(self) -> int:
        """Memory that the results of one call take."""
        output = torch.empty(*self.rows, self.spec.value_dim, dtype=self.dtype, device="meta")
        state = RowState.empty(self.spec, self.rows, self.number, "meta").tensors
        pooled = self._pooled("meta") if self.pools else {}
        return sum(tensor.nbytes for tensor in (output, *state.values(), *pooled.values()))

    def run(self, inputs: Inputs, shape: tuple[int, ...]) -> Written:
        """The output, in `shape`, and what was read."""
        tensors = self._readable(inputs)
        if self.spec.sinks:
            assert inputs.sinks is not None
            tensors["sinks"] = sinks_in(inputs.sinks, self.number)
        output, state = memory.empty(shape, self.dtype), None
        own = {"output": output}
        if self.parts:
            own["parts"] = torch.empty(self.parts, dtype=self.number, device="cpu")
        if self.spec.rows_out:
            state = RowState.empty(self.spec, self.rows, self.number)
            own |= state.tensors
        if self.pools:
            return Written(output, state, self._run_with_pools(tensors, own, inputs))
        self.prepared.run(tensors, own, inputs.captured)
        return Written(output, state, {})

    def _run_with_pools(self, tensors: dict[str, Tensor], own: dict[str, Tensor], inputs: Inputs) -> dict[str, Tensor]:
        """Run the kernel; give the bins of pooled readouts, which it writes as well."""
        pooled = self._pooled()
        own |= pooled
        for pool in self.pools:
            own |= pool.tables(self.spec, self.number)
        self.prepared.run(tensors, own, inputs.captured)
        joined = {pool.name: pool.joined(pooled, self.prepared.queries) for pool in self.pools}
        return {name: sums.unflatten(0, self.rows[:-1]) for name, sums in joined.items()}

    def _pooled(self, device: str = "cpu") -> dict[str, Tensor]:
        pairs, queries = math.prod(self.rows[:-1]), self.prepared.queries
        written: dict[str, Tensor] = {}
        for pool in self.pools:
            written |= pool.written(pairs, queries, self.number, device)
        return written

    def _readable(self, inputs: Inputs) -> dict[str, Tensor]:
        tensors = {"query": inputs.query, "key": inputs.key, "value": inputs.value}
        return tensors if self.in_place else {name: in_place(t, self.batch) for name, t in tensors.items()}


_plans: dict[Hashable, Plan] = {}  # the least recently made first


def plan_of(problem: Problem) -> tuple[Plan, Inputs]:
    """The plan for a problem that this engine covers, made at most once, and the problem's tensors for it."""
    program = program_of(problem)
    captured = captured_by(program) if program.slots else ()
    inputs = Inputs(problem.query, problem.key, problem.value, problem.sinks, captured)
    signature = _signature(problem, program, inputs)
    plan = _plans.get(signature)
    if plan is None:
        plan = _plan(problem, program)
        memory.keep_freed(plan.result_bytes)
        forget_oldest(_plans, MOST_PLANS - 1)
        _plans[signature] = plan
    return plan, inputs


def _signature(problem: Problem, program: Program, inputs: Inputs) -> Hashable:
    """All that a plan depends on; of the numbers in tensors, only how large captured ints are."""
    tensors = [(t.shape, t.stride(), t.dtype) for t in (*inputs[:3], *inputs.captured)]
    sizes = [magnitude(t, problem) for t in inputs.captured]
    plain = problem.score is SCORE and problem.mask is TRUE and len(program.roots) == 2
    return (
        *tensors, *sizes, None if plain else program.description(), asked(problem.readouts), problem.sinks is None,
        problem.batch, problem.heads, problem.scale, math.copysign(1, problem.scale), torch.get_num_threads(),
    )  # fmt: skip


def _plan(problem: Problem, program: Program) -> Plan:
    query, key, value = (in_place(t, problem.batch) for t in (problem.query, problem.key, problem.value))
    untouched = query is problem.query and key is problem.key and value is problem.value
    ready = replace(problem, query=query, key=key, value=value)
    kernel, spec, own = kernel_of(problem, spec_of(problem, program))
    parts = own["pairs"] * own["ranges"] * sum(part_of_state(spec).values()) if spec.shared_out else 0
    shape = (*problem.rows, spec.value_dim)
    prepared = prepare(ready, kernel, program, spec, own, torch.empty(shape, device="meta"))
    dtypes = (problem.query.dtype, problem.dtype)
    return Plan(prepared, spec, problem.rows, *dtypes, problem.batch, parts, pools_of(problem), untouched)


def kernel_of(problem: Problem, spec: Spec) -> tuple[type[Kernel], Spec, dict[str, int]]:
    """The kernel that makes the output, what it is compiled for, and arguments of its own."""
    if is_decode(problem):
        return Decode, *for_decode(problem, spec)
    if is_one_tile(problem, spec):
        return OneTile, spec, {}
    return Forward, spec, {}


def is_decode(problem: Problem) -> bool:
    """Whether so few rows share each key that packing keys would not pay."""
    if pools_of(problem):  # which go through keys a tile at a time
        return False
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
    tiles = spec.tiles and spec.parts == 1  # what would be split is faster by vectors
    dots = tiles or (spec.pairs and spec.parts == 1 and spec.target.dot_pays_in_decode)
    spec = replace(spec, group=group, queries=problem.q_len, pairs=dots, tiles=tiles, parts=1, whole=False)
    return replace(spec, shared_out=ranges > 1), arguments

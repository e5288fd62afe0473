"""The call of the backward kernel: gradients of a problem's tensors, given those of its results."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from pellucid.engines.cpu.call.arguments import call, group_of
from pellucid.engines.cpu.call.specify import program_of, spec_of
from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.kernels.backward.kernel import Backward
from pellucid.engines.cpu.kernels.backward.layout import BackwardSpec
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.target import Target
from pellucid.language import SCORE, derivatives
from pellucid.problem import Problem
from pellucid.softmax import Softmax


def gradients(problem: Problem, output: Tensor, rows: Softmax, of_output: Tensor, offset: Tensor) -> tuple[Tensor, ...]:
    """The gradients of query, key and value.

    Args:
        problem: the call.
        output: what it gave, [*batch, heads, q_len, value_dim].
        rows: the softmax of each row, its sink counted, [*batch, heads, q_len].
        of_output: the gradient of the output.
        offset: what is added to the gradient of each of a row's scores, but for its weight; [*batch, heads, q_len].

    """
    spec, program = for_gradients(problem)
    pairs, group = math.prod(problem.rows[:-1]), _shared(problem)
    number = problem.dtype
    rows_kept = -(-problem.q_len // spec.query_step) * spec.query_step
    d_query = torch.zeros(*problem.rows[:-1], rows_kept, spec.head_width, dtype=number)
    kept = number if spec.summed else problem.query.dtype
    shares = (*problem.batch, problem.heads // group, problem.k_len)
    d_key, d_value = (torch.empty(*shares, dim, dtype=kept) for dim in (spec.head_dim, spec.value_dim))
    natural = 1.0 if problem.score is not SCORE else math.log2(math.e)
    seen = rows.total > 0
    made = {
        "output": output,
        "d_query": d_query,
        "d_key": d_key,
        "d_value": d_value,
        "maximum": torch.where(seen, rows.maximum, 0.0) * natural,
        "log_total": torch.where(seen, rows.total, 1.0).log() * natural,
        "offset": offset.to(number).contiguous(),
        "done": torch.zeros(pairs, -(-problem.q_len // spec.block), dtype=torch.int64),
    }
    tiles = -(-problem.k_len // KEYS)
    own = {
        "pairs": pairs // group,
        "tasks": pairs // group * tiles,
        "group": group,
        "chunk": problem.q_len,
        "chunks": 1,
    }
    call(replace(problem, readouts=(), sinks=None), Backward, program, spec, (), own, {}, made, {"gradient": of_output})
    d_query = d_query[..., : problem.q_len, : spec.head_dim]
    wanted = zip((d_query, d_key, d_value), (problem.query, problem.key, problem.value), strict=True)
    return tuple(summed_to(made, own.shape).to(own.dtype) for made, own in wanted)


def for_gradients(problem: Problem, target: Target | None = None) -> tuple[BackwardSpec, Program]:
    """What the backward kernel is compiled for."""
    problem = replace(problem, readouts=(), sinks=None)
    functions = {} if problem.score is SCORE else {"slope": derivatives(problem.score, [SCORE])[0]}
    program = program_of(problem, functions)
    group = _shared(problem)
    whole = (*problem.batch, problem.heads // group)
    summed = any(tensor.shape[:-2] != whole for tensor in (problem.key, problem.value))
    return BackwardSpec.of(spec_of(problem, program, target=target), summed=summed), program


def _shared(problem: Problem) -> int:
    """How many neighbouring query heads share both key and value."""
    return math.gcd(group_of(problem.heads, problem.key), group_of(problem.heads, problem.value))


def summed_to(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor added up over what was broadcast, or shared, to a shape: in one order for any number of threads."""
    for _ in range(tensor.ndim - len(shape)):
        tensor = folded(tensor, 0)
    for dim, size in enumerate(shape):
        if tensor.shape[dim] != size:
            parts = tensor.unflatten(dim, (size, -1))
            tensor = folded(parts, dim + 1)
    return tensor


def folded(tensor: Tensor, dim: int) -> Tensor:
    """The sum over a dimension, halves added to halves."""
    while (size := tensor.shape[dim]) > 1:
        half = size // 2
        low, high = tensor.narrow(dim, 0, half), tensor.narrow(dim, half, half)
        rest = tensor.narrow(dim, 2 * half, size - 2 * half)
        tensor = low + high if not rest.numel() else torch.cat([low + high, rest], dim)
    return tensor.squeeze(dim)

"""The call of the backward kernel: gradients of a problem's tensors, given those of its results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from pellucid.engines.cpu.call.arguments import call, group_of
from pellucid.engines.cpu.call.captured import captures_of, shares_of
from pellucid.engines.cpu.call.folding import summed_to
from pellucid.engines.cpu.call.specify import program_of, spec_of
from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.kernels.backward.kernel import Backward
from pellucid.engines.cpu.kernels.backward.layout import BackwardSpec
from pellucid.engines.cpu.kernels.backward.means import FUNCTION, Means, MeansSpec
from pellucid.engines.cpu.kernels.backward.sums import starts_anew
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine import memory
from pellucid.engines.cpu.machine.target import Target
from pellucid.engines.cpu.stages.gradient import Carried, GradientStage
from pellucid.language import SCORE, Expression, derivatives
from pellucid.problem import Problem
from pellucid.readouts import Expect
from pellucid.softmax import Softmax


def gradients(
    problem: Problem,
    output: Tensor,
    rows: Softmax,
    of_output: Tensor,
    offset: Tensor,
    carried: Sequence[Carried] = (),
) -> tuple[Tensor, ...]:
    """The gradients of query, key and value, and of captured tensors that need one.

    Args:
        problem: the call.
        output: what it gave, [*batch, heads, q_len, value_dim].
        rows: the softmax of each row, its sink counted, [*batch, heads, q_len].
        of_output: the gradient of the output.
        offset: what is added to the gradient of each of a row's scores, but for its weight; [*batch, heads, q_len].
        carried: what the gradients of readouts come to beside that.

    """
    stages = tuple(own.stage for own in carried if own.stage is not None)
    functions = {own.stage.name: own.function for own in carried if own.stage and own.function}
    spec, program = for_gradients(problem, stages=stages, functions=functions)
    pairs, group = math.prod(problem.rows[:-1]), _shared(problem)
    number = problem.dtype
    rows_kept = -(-problem.q_len // spec.query_step) * spec.query_step
    new = torch.empty if starts_anew(problem.mask, spec) else torch.zeros
    d_query = new(*problem.rows[:-1], rows_kept, spec.head_width, dtype=number, device="cpu")
    kept = number if spec.summed else problem.query.dtype
    shared = (*problem.batch, problem.heads // group, problem.k_len)
    d_key, d_value = (torch.empty(*shared, dim, dtype=kept, device="cpu") for dim in (spec.head_dim, spec.value_dim))
    made = {
        "output": output,
        "d_query": d_query,
        "d_key": d_key,
        "d_value": d_value,
        **_softmax(problem, rows),
        "offset": offset.to(number).contiguous(),
        "done": torch.zeros(pairs, -(-problem.q_len // spec.block), dtype=torch.int64, device="cpu"),
    }
    tiles = -(-problem.k_len // KEYS)
    for part in carried:
        made |= {name: tensor.contiguous() for name, tensor in part.tensors.items()}
    shares = shares_of(problem, spec.captures, program.roots, group)
    own = {
        "pairs": pairs // group,
        "tasks": pairs // group * tiles,
        "group": group,
        "chunk": problem.q_len,
        "chunks": 1,
    } | shares.arguments
    for part in carried:
        own |= part.numbers
    problem = problem.alone()
    memory.keep_freed(sum(tensor.nbytes for tensor in made.values()))
    call(problem, Backward, program, spec, (), own, {}, made | shares.tensors, {"gradient": of_output})
    d_query = d_query[..., : problem.q_len, : spec.head_dim]
    wanted = zip((d_query, d_key, d_value), (problem.query, problem.key, problem.value), strict=True)
    return *(summed_to(made, own.shape).to(own.dtype) for made, own in wanted), *shares.gradients()


def for_gradients(
    problem: Problem,
    target: Target | None = None,
    stages: tuple[GradientStage, ...] = (),
    functions: dict[str, Expression] | None = None,
) -> tuple[BackwardSpec, Program]:
    """What the backward kernel is compiled for.

    Args:
        problem: the call.
        target: the processor, this machine's if None.
        stages: of the readouts whose gradients there are.
        functions: theirs, by the name of the stage.

    """
    functions = functions or {}
    captures, roots = captures_of(problem, {"score": problem.score} | functions)
    read = tuple(Expect.again((), iter((function,)), name) for name, function in functions.items())
    slope = {} if problem.score is SCORE else {"slope": derivatives(problem.score, [SCORE])[0]}
    bare = problem.alone()
    program = program_of(replace(bare, readouts=read) if read else bare, functions | slope | roots)
    group = _shared(problem)
    whole = (*problem.batch, problem.heads // group)
    summed = any(tensor.shape[:-2] != whole for tensor in (problem.key, problem.value))
    return BackwardSpec.of(spec_of(bare, program, stages, target), summed=summed, captures=captures), program


def means_of(problem: Problem, rows: Softmax, function: Expression) -> Tensor:
    """Each row's mean of a function of the place under its weights, [*batch, heads, q_len].

    Args:
        problem: the call.
        rows: as in `gradients`.
        function: which.

    """
    read = Expect.again((), iter((function,)), FUNCTION)
    problem = replace(problem, readouts=(read,), sinks=None, dropout_p=0.0)
    program = program_of(problem, {FUNCTION: read.expression})
    spec = spec_of(problem, program)
    spec = MeansSpec(**{field.name: getattr(spec, field.name) for field in fields(spec)})
    means = torch.zeros(problem.rows, dtype=problem.dtype, device="cpu")
    output = means.new_empty(*problem.batch, problem.heads, 1, 1)
    call(problem, Means, program, spec, (), {}, {}, {"output": output, "means": means, **_softmax(problem, rows)})
    return means


def _softmax(problem: Problem, rows: Softmax) -> dict[str, Tensor]:
    """The softmax of each row as kernels read it."""
    natural = 1.0 if problem.score is not SCORE else math.log2(math.e)
    seen = rows.total != 0  # NaN among them
    return {
        "maximum": torch.where(seen, rows.maximum, 0.0) * natural,
        "log_total": torch.where(seen, rows.total, 1.0).log() * natural,
    }


def _shared(problem: Problem) -> int:
    """How many neighbouring query heads share both key and value."""
    return math.gcd(group_of(problem.heads, problem.key), group_of(problem.heads, problem.value))

"""An engine's call as one node of autograd's graph, whose outputs are the output, lse and every reading's tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid.engines import twice
from pellucid.problem import Problem, Result
from pellucid.readouts.base import tensors_of
from pellucid.tensors.transformed import one_by_one


class Upstream(NamedTuple):
    """The gradients of a call's results; None stands for 0."""

    output: Tensor | None  # [*batch, heads, q_len, value_dim]
    lse: Tensor | None  # [*batch, heads, q_len]
    readings: dict[str, tuple[Tensor | None, ...]]  # by readout, of each tensor of its result


class Steps(NamedTuple):
    """An engine's two passes.

    Attributes:
        forward: what the call gives, and whatever the backward pass wants to know beside it.
        backward: the gradients of `problem.differentiable`, given the problem, the result, what `forward` gave beside
            it, and the gradients of the results.

    """

    forward: Callable[[Problem], tuple[Result, Any]]
    backward: Callable[[Problem, Result, Any, Upstream], tuple[Tensor, ...]]


def is_wanted(problem: Problem) -> bool:
    """Whether autograd is to follow a call."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in problem.differentiable)


def run(problem: Problem, steps: Steps) -> Result:
    """A call that is differentiable with respect to `problem.differentiable`."""
    names: list[str] = []
    flat = iter(_Node.apply(problem, steps, names, *problem.differentiable))
    return _result(problem, names, flat)


def _flat(result: Result) -> tuple[Tensor, ...]:
    return result.output, result.lse, *(t for reading in result.readings.values() for t in tensors_of(reading))


def _result(problem: Problem, names: list[str], flat: Iterator[Tensor]) -> Result:
    own = {readout.name: readout for readout in problem.readouts}
    output, lse = next(flat), next(flat)
    return Result(output, lse, {name: own[name].result_of(flat) for name in names})


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: Problem, steps: Steps, names: list[str], *tensors: Tensor) -> tuple[Tensor, ...]:
        result, ctx.kept = steps.forward(problem)
        ctx.problem, ctx.steps, ctx.names = twice.kept(problem), steps, names
        names += result.readings
        ctx.tensors = [name for name, reading in result.readings.items() for _ in tensors_of(reading)]
        # What the backward pass reads again is saved too: autograd then notices changes in place.
        made = _flat(result)
        ctx.made = len(made)
        ctx.save_for_backward(*made, *tensors, *(load.value for load in problem.loads))
        fixed = [readout.name for readout in problem.readouts if not readout.differentiable]
        ctx.mark_non_differentiable(*(t for name in fixed for t in tensors_of(result.readings[name])))
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        flat, problem = saved[: ctx.made], twice.restored(ctx.problem, saved[ctx.made :])

        def made(*upstream: Tensor | None) -> tuple[Tensor, ...]:
            result = _result(problem, ctx.names, iter(flat))
            return ctx.steps.backward(problem, result, ctx.kept, _upstream(result, upstream))

        def again(*upstream: Tensor | None) -> tuple[Tensor, ...]:
            return twice.gradients(problem, made, ctx.tensors, upstream)

        with problem.own_precision():
            return None, None, None, *one_by_one(again, *gradients)


def _upstream(result: Result, gradients: tuple[Tensor | None, ...]) -> Upstream:
    output, lse, *others = gradients
    rest = iter(others)
    return Upstream(output, lse, {n: tuple(next(rest) for _ in tensors_of(r)) for n, r in result.readings.items()})

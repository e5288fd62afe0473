"""An engine's call as one node of autograd's graph, whose outputs are the output, lse and every reading's tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
    readings: dict[str, Tensor]  # by differentiable readout, of its result's tensor of floats; what is not there is 0


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
    own = {readout.name: readout for readout in problem.readouts}
    output, lse = next(flat), next(flat)
    return Result(output, lse, {name: own[name].result_of(flat) for name in names})


def _flat(result: Result) -> tuple[Tensor, ...]:
    return result.output, result.lse, *(t for reading in result.readings.values() for t in tensors_of(reading))


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: Problem, steps: Steps, names: list[str], *tensors: Tensor) -> tuple[Tensor, ...]:
        result, ctx.kept = steps.forward(problem)
        ctx.problem, ctx.steps = without_tensors(problem), steps
        names += result.readings
        ctx.names = [name for name, reading in result.readings.items() for _ in tensors_of(reading)]
        # What the backward pass reads again is saved too: autograd then notices changes in place. Of what was read the
        # caller has copies, for those may be changed.
        own = (problem.query, problem.key, problem.value, problem.sinks)
        saved = result.output, *own, *problem.loaded
        ctx.save_for_backward(*saved)
        ctx.kinds = list(map(_kind, saved))
        ctx.wanted = [tensor.requires_grad for tensor in problem.loaded]
        ctx.result = result._replace(output=result.output.new_empty(0))
        by_name = {readout.name: readout for readout in problem.readouts}
        readings = {name: by_name[name].map(reading, Tensor.clone) for name, reading in result.readings.items()}
        result = result._replace(lse=result.lse.clone(), readings=readings)
        made = _flat(result)
        cut = {readout.name for readout in problem.readouts if not readout.differentiable}
        parts = ((name, tensor) for name, reading in result.readings.items() for tensor in tensors_of(reading))
        ctx.mark_non_differentiable(*(t for name, t in parts if name in cut or not t.is_floating_point()))
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        saved = ctx.saved_tensors  # once: a checkpoint gives each tensor back once
        _check_kinds(saved, ctx.kinds)
        output, query, key, value, sinks, *loaded = saved
        loaded = list(map(_wanted, loaded, ctx.wanted))
        problem: Problem = replace(
            ctx.problem.reading(loaded.__getitem__), query=query, key=key, value=value, sinks=sinks
        )
        result = ctx.result._replace(output=output)

        def made(*upstream: Tensor | None) -> tuple[Tensor, ...]:
            return ctx.steps.backward(problem, result, ctx.kept, _upstream(problem, result, upstream))

        def again(*upstream: Tensor | None) -> tuple[Tensor, ...]:
            return twice.gradients(problem, made, ctx.names, upstream)

        with problem.own_precision():
            return None, None, None, *one_by_one(again, *gradients)


def _kind(tensor: Tensor | None) -> tuple[object, ...] | None:
    return None if tensor is None else (tensor.dtype, tensor.device, tensor.shape)


def _check_kinds(tensors: tuple[Tensor | None, ...], kinds: list[tuple[object, ...] | None]) -> None:
    """Whether tensors are still of the kinds they were: hooks of saved tensors, and `.data`, may put others there."""
    for tensor, kind in zip(tensors, kinds, strict=True):
        if _kind(tensor) != kind:
            raise RuntimeError(f"attention's backward: a saved tensor came back as {_kind(tensor)}, and was {kind}")


def _wanted(tensor: Tensor, wanted: bool) -> Tensor:
    """A captured tensor that needs a gradient as it did when the call was made, even if it is frozen by now."""
    return tensor if tensor.requires_grad is wanted else tensor.detach().requires_grad_(wanted)


def without_tensors(problem: Problem) -> Problem:
    """A problem to be kept until backward: its tensors are saved with autograd, which may let go of them.

    In place of those that its functions captured are their numbers among `problem.loaded`.
    """
    nothing = problem.query.new_empty(0)
    numbers = {id(tensor): number for number, tensor in enumerate(problem.loaded)}
    bare = problem.reading(lambda tensor: numbers[id(tensor)])
    return replace(bare, query=nothing, key=nothing, value=nothing, sinks=None)


def _upstream(problem: Problem, result: Result, gradients: tuple[Tensor | None, ...]) -> Upstream:
    output, lse, *others = gradients
    rest, readings = iter(others), {}
    followed = {readout.name for readout in problem.readouts if readout.differentiable}
    for name, reading in result.readings.items():
        given = [gradient for _, gradient in zip(tensors_of(reading), rest, strict=False) if gradient is not None]
        if given and name in followed:
            readings[name] = given[0]
    return Upstream(output, lse, readings)

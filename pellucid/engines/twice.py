"""Gradients that can be differentiated again: an engine's own, and their derivatives by torch's operations.

First derivatives are the engine's, as fast and as small as ever, also under `create_graph=True`. Who then asks for
second ones, or further ones, gets them through the dense definition, with the matrix in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid import reference
from pellucid.problem import Problem
from pellucid.readouts.base import tensors_of

LARGE = 1 << 28  # scores, from which on it is said that they are held
Made = Callable[..., tuple[Tensor, ...]]
Optional = Sequence[Tensor | None]


def gradients(problem: Problem, made: Made, names: Sequence[str], upstream: Optional) -> tuple[Tensor, ...]:
    """What `made(*upstream)` gives, differentiable with respect to `problem.differentiable` and `upstream`.

    Args:
        problem: the call, its tensors those of autograd's graph.
        made: gives the gradients of `problem.differentiable`; autograd is off inside.
        names: of the readout that each of `upstream` belongs to, from the third on.
        upstream: the gradients of output, lse and each tensor of the readings; None stands for 0.

    """
    if not torch.is_grad_enabled():
        return made(*upstream)
    results: tuple[Tensor, ...] = _Gradients.apply(problem, made, names, *upstream, *problem.differentiable)
    return results


class _Gradients(torch.autograd.Function):
    """The gradients as a node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, made: Made, names: Sequence[str], *tensors: Tensor | None) -> Any:
        count = 2 + len(names)
        ctx.problem, ctx.names, ctx.upstream = problem, names, count
        ctx.save_for_backward(*tensors, *_others(problem))
        return made(*tensors[:count])

    @staticmethod
    def backward(ctx: Any, *of_gradients: Tensor) -> Any:
        saved: Optional = ctx.saved_tensors  # which notices what was changed in place
        again = torch.is_grad_enabled()
        with torch.enable_grad(), ctx.problem.own_precision():
            # Each in a place of its own, for one tensor may be query and key, or made of another.
            own = [None if tensor is None else tensor.view_as(tensor) for tensor in saved]
            end = ctx.upstream + len(ctx.problem.differentiable)
            own, others = own[:end], [tensor for tensor in own[end:] if tensor is not None]
            upstream, inputs = own[: ctx.upstream], [tensor for tensor in own[ctx.upstream :] if tensor is not None]
            first = _by_torch(_with(ctx.problem, inputs, others), ctx.names, upstream, inputs)
            pairs = [(f, g) for f, g in zip(first, of_gradients, strict=True) if f is not None and f.requires_grad]
            wanted = [tensor for tensor in own if tensor is not None and tensor.requires_grad]
            if not pairs or not wanted:
                return None, None, None, *(None for _ in own)
            results, given = zip(*pairs, strict=True)
            second = iter(torch.autograd.grad(results, wanted, given, create_graph=again, allow_unused=True))
        return None, None, None, *(None if t is None or not t.requires_grad else next(second) for t in own)


def _others(problem: Problem) -> list[Tensor]:
    """What its functions captured that needs no gradient."""
    differentiable = set(map(id, problem.captured))
    return [tensor for tensor in problem.loaded if id(tensor) not in differentiable]


def _with(problem: Problem, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> Problem:
    """The problem of other tensors, those that functions captured among them."""
    query, key, value, *rest = inputs
    sinks = None if problem.sinks is None else rest.pop(0)
    old = (*problem.captured, *_others(problem))
    instead = {id(tensor): new for tensor, new in zip(old, (*rest, *others), strict=True)}
    problem = problem.reading(lambda tensor: instead[id(tensor)])
    return replace(problem, query=query, key=key, value=value, sinks=sinks)


def _by_torch(problem: Problem, names: Sequence[str], upstream: Optional, inputs: Sequence[Tensor]) -> Optional:
    """The gradients of `inputs` through the dense definition, as a part of the graph; None where they are 0."""
    scores = torch.Size(problem.rows).numel() * problem.k_len
    if scores > LARGE:
        warnings.warn(f"the derivative of a gradient holds all {scores:.1e} scores", stacklevel=2)
    result = reference.run(problem)
    readings = [tensor for name in dict.fromkeys(names) for tensor in tensors_of(result.readings[name])]
    pairs = [
        (made, given.to(made.dtype))
        for made, given in zip((result.output, result.lse, *readings), upstream, strict=True)
        if given is not None and made.requires_grad
    ]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not pairs or not wanted:
        return [None for _ in inputs]
    results, given = zip(*pairs, strict=True)
    made = iter(torch.autograd.grad(results, wanted, given, create_graph=True, allow_unused=True))
    return [next(made) if tensor.requires_grad else None for tensor in inputs]

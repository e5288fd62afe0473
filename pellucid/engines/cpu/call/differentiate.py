"""The backward pass of a call: what autograd gives, put together for the kernel, and what it leaves to torch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from pellucid.engines import portable, rounded
from pellucid.engines.cpu.call.folding import folded
from pellucid.engines.cpu.call.gradients import gradients, means_of
from pellucid.engines.cpu.call.plan import plan_of
from pellucid.engines.cpu.call.result import read as read_plan
from pellucid.engines.cpu.kernels.backward.means import FUNCTION
from pellucid.engines.cpu.machine.address import plain
from pellucid.engines.cpu.stages.expect import FunctionStage
from pellucid.engines.cpu.stages.gradient import Back, Carried
from pellucid.engines.cpu.stages.stage import Found
from pellucid.engines.cpu.stages.table import readings_of
from pellucid.engines.node import Upstream
from pellucid.language import Expression, operation
from pellucid.problem import Problem, Result
from pellucid.readouts import Readout


def backward(problem: Problem, result: Result, found: Found, upstream: Upstream) -> tuple[Tensor, ...]:
    """The gradients of `problem.differentiable`.

    Args:
        problem: the call.
        result: what it gave.
        found: what that was made from.
        upstream: the gradients of the result.

    """
    if rounded.has_any(result.lse):  # of whose weights one computation must make all
        return portable.gradients(problem, upstream)
    upstream = _plain(upstream)
    problem = problem.having(*map(plain, (problem.query, problem.key, problem.value)))
    result = result._replace(output=plain(result.output).contiguous())
    of_output = upstream.output
    if of_output is None:
        of_output = result.output.new_zeros(()).expand_as(result.output)
    carried = _carried(problem, result, found, upstream.readings)
    if upstream.lse is not None:
        carried.append(Carried(None, upstream.lse))
    nothing = torch.zeros_like(found.rows.keys.total)
    offset = sum((part.offset for part in carried), nothing)
    made = gradients(problem, result.output, found.rows.whole, of_output, offset, carried)
    if problem.sinks is None:
        return made
    mean = (of_output.to(problem.dtype) * result.output).sum(-1)
    same = sum((part.offset for part in carried if part.of_sinks is None), nothing)
    own = (part.of_sinks for part in carried if part.of_sinks is not None)
    of_sinks = found.rows.sink_weight * (same - mean) + sum(own, nothing)
    heads = folded(of_sinks.movedim(len(problem.batch), 0).flatten(1), 1)
    return *made[:3], heads.to(problem.sinks.dtype), *made[3:]


def _plain(upstream: Upstream) -> Upstream:
    output, lse = (None if gradient is None else plain(gradient) for gradient in (upstream.output, upstream.lse))
    return Upstream(output, lse, {name: plain(gradient) for name, gradient in upstream.readings.items()})


def _carried(problem: Problem, result: Result, found: Found, gradients: dict[str, Tensor]) -> list[Carried]:
    """What the gradients of readings, by name, come to."""

    def read(readout: Readout) -> Any:
        # Of the values one column goes along, for no kernel does without.
        narrow = replace(problem, value=problem.value[..., :1], readouts=(readout,), dropout_p=0.0)
        return read_plan(narrow, *plan_of(narrow))[0].readings[readout.name]

    carried: list[Carried] = []
    of_weights: list[Expression] = []
    for readout, reading in zip(problem.readouts, readings_of(problem)[0], strict=True):
        gradient = gradients.get(readout.name)
        if gradient is None:
            continue
        function = reading.of_weights(readout, gradient)
        if function is not None:
            of_weights.append(function)
            continue
        back = Back(problem, gradient, result.readings[readout.name], found, read)
        carried.append(reading.carried(f"readout{len(carried)}", readout, back))
    return [*carried, *_of_columns(problem, found, of_weights)]


def _of_columns(problem: Problem, found: Found, functions: list[Expression]) -> list[Carried]:
    """What the gradients of sums over queries come to, given those that each weight gets."""
    if not functions:
        return []
    function = reduce(partial(operation, "add"), functions)
    mean = means_of(problem, found.rows.whole, function)
    return [Carried(FunctionStage(FUNCTION, False), -mean, function=function)]

"""The backward pass of a call: what autograd gives, put together for the kernel, and what it leaves to torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.engines import portable
from pellucid.engines.cpu.call.gradients import folded, gradients
from pellucid.engines.cpu.call.plan import plan_of
from pellucid.engines.cpu.call.result import read
from pellucid.engines.cpu.stages.gradient import Back, Carried
from pellucid.engines.cpu.stages.stage import Found
from pellucid.engines.cpu.stages.table import readings_of
from pellucid.engines.node import Upstream
from pellucid.engines.rounded import is_rounded
from pellucid.problem import Problem, Result
from pellucid.readouts import Readout


def backward(problem: Problem, result: Result, found: Found, upstream: Upstream) -> tuple[Tensor, ...]:
    """The gradients of query, key, value and sinks.

    Args:
        problem: the call.
        result: what it gave.
        found: what that was made from.
        upstream: the gradients of the result.

    """
    of_readings = {name: given[0] for name, given in upstream.readings.items() if given[0] is not None}
    if is_rounded(result.lse).any():  # of whose weights one computation must make all
        return portable.gradients(problem, upstream.output, upstream.lse, of_readings)
    of_output = upstream.output
    if of_output is None:
        of_output = result.output.new_zeros(()).expand_as(result.output)
    carried = _carried(problem, result, found, of_readings)
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
    return *made, heads.to(problem.sinks.dtype)


def _carried(problem: Problem, result: Result, found: Found, gradients: dict[str, Tensor]) -> list[Carried]:
    """What the gradients of readings, by name, come to."""
    pairs = zip(problem.readouts, readings_of(problem)[0], strict=True)
    wanted = [(readout, reading) for readout, reading in pairs if readout.name in gradients]
    asked = {own.name: reading.swept(own, gradients[own.name], problem) for own, reading in wanted}
    swept = _swept(problem, {name: readout for name, readout in asked.items() if readout is not None})
    carried = []
    for place, (readout, reading) in enumerate(wanted):
        name = readout.name
        reads = result.readings[name], found, asked[name], swept.get(name)
        carried.append(reading.carried(f"upstream{place}", readout, Back(problem, gradients[name], *reads)))
    return carried


def _swept(problem: Problem, asked: dict[str, Readout]) -> dict[str, Any]:
    """What one more sweep over the scores reads of a call."""
    if not asked:
        return {}
    # Of the values one column goes along, for no kernel does without.
    narrow = replace(problem, value=problem.value[..., :1], readouts=tuple(asked.values()))
    result, _ = read(narrow, *plan_of(narrow))
    return {name: result.readings[readout.name] for name, readout in asked.items()}

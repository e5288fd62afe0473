"""The backward pass of a call: what autograd gives, put together for the kernel, and what it leaves to torch."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.engines import portable
from pellucid.engines.cpu.call.gradients import folded, gradients
from pellucid.engines.node import Upstream
from pellucid.engines.rounded import is_rounded
from pellucid.problem import Problem, Result
from pellucid.readouts.base import Rows


def backward(problem: Problem, result: Result, rows: Rows, upstream: Upstream) -> tuple[Tensor, ...]:
    """The gradients of query, key, value and sinks.

    Args:
        problem: the call.
        result: what it gave.
        rows: their softmax.
        upstream: the gradients of the result.

    """
    if is_rounded(result.lse).any():  # of whose weights one computation must make all
        return portable.gradients(problem, upstream)
    of_output = upstream.output
    if of_output is None:
        of_output = result.output.new_zeros(()).expand_as(result.output)
    of_rows = _of_lse(problem, rows, upstream)
    made = gradients(problem, result.output, rows.whole, of_output, of_rows)
    if problem.sinks is None:
        return made
    mean = (of_output.to(problem.dtype) * result.output).sum(-1)
    of_sinks = rows.sink_weight * (of_rows - mean)
    heads = folded(of_sinks.movedim(len(problem.batch), 0).flatten(1), 1)
    return *made, heads.to(problem.sinks.dtype)


def _of_lse(problem: Problem, rows: Rows, upstream: Upstream) -> Tensor:
    """The gradients of each row's lse, as every reading of it has them."""
    given = [upstream.lse, *(upstream.readings.get(r.name) for r in problem.readouts if r.is_lse)]
    total = torch.zeros_like(rows.keys.total)
    for gradient in given:
        if gradient is not None:
            total = total + gradient
    return total

"""The engine itself: a Problem goes to a kernel by its plan, and what the kernel wrote becomes a Result."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.engines import node
from pellucid.engines.cpu.call.differentiate import backward
from pellucid.engines.cpu.call.plan import Inputs, Into, Plan, is_decode, plan_of
from pellucid.engines.cpu.call.result import read
from pellucid.engines.cpu.stages.stage import Found
from pellucid.problem import Problem, Result
from pellucid.readouts import LogSumExp
from pellucid.readouts.base import Rows
from pellucid.softmax import Softmax

_NOTHING = torch.empty(0, device="cpu")
NOBODYS = Problem(
    _NOTHING, _NOTHING, _NOTHING, (), 0, 0.0
)  # of what is kept until backward, which holds no tensor of it


def run(problem: Problem) -> Result:
    """Attention and its readouts."""
    if node.is_wanted(problem):
        return node.run(problem, node.Steps(_forward, backward))
    plan, inputs = plan_of(problem)
    result = _result(problem, plan, inputs)
    return result if problem.dropout_p else result._replace(again=partial(Repeat, plan))


def joined(problem: Problem, output: Tensor, lse: Tensor) -> Result | None:
    """What `run` gives, without dropout, sinks and gradient, whose output becomes part of what there is of other keys.

    Args:
        problem: the call.
        output: of the same queries over other keys, its rows contiguous and in the precision of the computation;
            replaced in place by that over all these keys.
        lse: theirs, contiguous; replaced as well.

    Returns:
        What is read of the problem's own keys, and their lse if anything is; None if the call is better made by itself.

    """
    if is_decode(problem) or len(problem.batch) > 2:
        return None
    plan, inputs = plan_of(problem, Into(output, lse))
    if plan.readings:
        return read(problem, plan, inputs)[0]
    plan.run(inputs, tuple(output.shape))
    return Result(output, lse, {})


def gradients(problem: Problem, upstream: node.Upstream, result: Result | None = None) -> tuple[Tensor, ...]:
    """The gradients of `problem.differentiable`, given those of what `run` returns.

    Args:
        problem: the call.
        upstream: the gradients of its results.
        result: output and lse; if they are not all that is needed, or None, the forward pass is run again.

    """
    if result is None or problem.sinks is not None or upstream.readings:
        return backward(problem, *_forward(problem), upstream)
    rows = Rows(Softmax(result.lse, (result.lse != -torch.inf).to(result.lse.dtype)), None)
    return backward(problem, result, Found(NOBODYS, {}, {}, 0, rows, result.lse), upstream)


class Repeat(NamedTuple):
    """What runs problems that differ from one that was seen in their numbers alone, and looks at nothing else."""

    plan: Plan
    shape: tuple[int, ...]

    def output(
        self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, captured: tuple[Tensor, ...]
    ) -> Tensor:
        """The output alone, in `shape`.

        Args:
            query: laid out as in the call that was seen, as all of these.
            key: see `query`.
            value: see `query`.
            sinks: [heads], if that call had any.
            captured: by the functions, in the order of `captured_by`.

        Raises:
            AddressError: see `Prepared.run`.

        """
        return self.plan.run(Inputs(query, key, value, sinks, captured), self.shape).output

    def result(self, problem: Problem) -> Result:
        """The whole result; `problem`'s functions capture nothing."""
        return _result(problem, self.plan, Inputs(problem.query, problem.key, problem.value, problem.sinks, ()))


def _forward(problem: Problem) -> tuple[Result, Found]:
    """What the call gives, and what of it the backward pass reads again."""
    asked = problem if problem.readouts else replace(problem, readouts=(LogSumExp(),))
    plan, inputs = plan_of(asked)
    result, found = read(asked, plan, inputs)
    written = {name: found.written[name] for reading in plan.readings for name in reading.kept}
    found = replace(found, problem=NOBODYS, written=written, columns={})
    return result if problem.readouts else result._replace(readings={}), found


def _result(problem: Problem, plan: Plan, inputs: Inputs) -> Result:
    if plan.readings:
        return read(problem, plan, inputs)[0]
    output, _ = plan.run(inputs, (*plan.rows, plan.spec.value_dim))
    return Result(output, output.new_empty(0), {})

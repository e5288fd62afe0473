"""A step of a training: a call, and the gradients of all of its tensors, given those of what it returned.

To be checked, a step is taken with upstream gradients that are 0 but at some queries, of which the dense definition can
be given at any length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.contract import Answer, Ready, UnableError
from benchmarks.task import Task
from pellucid.readouts import Received
from tests.cases import Call, normal

MOST_ENTRIES = 2**23  # of the matrix of those queries in two heads
Step = Callable[[Call], tuple[Tensor, ...]]  # gives the output, and each readout's result


def stepping(task: Task, step: Step) -> Ready:
    """The step, ready to run."""
    call, wanted = leaves(task)

    def run(given: list[Tensor]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            results = step(call)
            if not all(result.requires_grad for result in results):
                raise UnableError("has no gradient of what is read")
            return torch.autograd.grad(results, wanted, given)

    def answer(_: Any) -> Answer:
        with torch.no_grad():
            output = step(call)[0]
        return Answer(output, gradients=list(run(upstream(task, queries(task)))))

    whole = upstream(task)
    return Ready(lambda: run(whole), answer)


def leaves(task: Task) -> tuple[Call, list[Tensor]]:
    """The call with tensors that want a gradient, and all of those."""
    call, mask = task.call, task.call.attn_mask
    own = {name: getattr(call, name).detach().requires_grad_() for name in ("query", "key", "value")}
    if mask is not None and mask.is_floating_point():
        own["attn_mask"] = mask.detach().requires_grad_()
    return replace(call, **own), [*own.values(), *task.learned]


def upstream(task: Task, at: Tensor | None = None) -> list[Tensor]:
    """The gradients of the output and of each readout, in their types; 0 but at some queries, if they are named."""
    *rows, value_dim = task.output_shape
    counts = torch.ones(rows[-1]) if at is None else torch.zeros(rows[-1]).index_fill_(0, at, 1.0)
    given = [(normal(*rows, value_dim, seed=7) * counts[:, None]).to(task.dtype)]
    for readout in task.readouts:
        if isinstance(readout, Received):  # every query has a part in it
            made = normal(*rows[:-1], task.call.key.shape[-2], seed=8)
        else:
            made = normal(*rows, seed=8) * counts
        given.append(made.float() if task.dtype != torch.float64 else made)
    return given


def queries(task: Task) -> Tensor:
    """Those that a step is checked by: all, or where the matrix is large the ends and some drawn at random."""
    q_len, count = task.call.query.shape[-2], MOST_ENTRIES // (2 * task.call.key.shape[-2])
    if count >= q_len:
        return torch.arange(q_len)
    drawn = torch.randperm(q_len, generator=torch.Generator().manual_seed(0))[: count - 2]
    return torch.cat([drawn, torch.tensor([0, q_len - 1])]).unique()

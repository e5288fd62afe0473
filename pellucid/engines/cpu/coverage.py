"""Which problems this engine runs, and why not the others: those the portable engine does."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pellucid.engines import node
from pellucid.engines.cpu.call.specify import dtype_name
from pellucid.engines.cpu.expression.program import STORED
from pellucid.engines.cpu.machine.address import is_plain
from pellucid.engines.cpu.machine.target import host
from pellucid.engines.cpu.stages import table
from pellucid.engines.reason import Reason
from pellucid.problem import Problem

MOST_DIM = 256
MOST_SLOT_DIMS = 4


def why_not(problem: Problem) -> Reason | None:
    """Why this engine does not run `problem`; None if it does."""
    return next(_reasons(problem), None)


def _reasons(problem: Problem) -> Iterator[Reason]:
    query = problem.query
    if not all(map(is_plain, problem.tensors)):
        yield Reason("a tensor is not simply numbers in this process's memory: on another device, or around others")
    for name, size in (("head_dim", query.shape[-1]), ("value_dim", problem.value.shape[-1])):
        if not 1 <= size <= MOST_DIM:
            yield Reason(f"{name} is from 1 to {MOST_DIM}, not {size}", mine=True)
    if not torch.Size(problem.rows).numel() or not problem.k_len:
        yield Reason("there are no queries, or no keys")
    yield from filter(None, map(table.why_not, problem.readouts))
    if node.is_wanted(problem):
        yield from filter(None, [undifferentiated(problem)])
    yield from filter(None, (_unstored(load.value) for load in problem.loads))
    if query.dtype == torch.float16 and not host().half:
        yield Reason("this processor does not convert float16; use bfloat16 or float32", mine=True)


def undifferentiated(problem: Problem) -> Reason | None:
    """Why this engine does not compute the gradients of a call that it covers; None if it does."""
    pairs = zip(problem.readouts, table.readings_of(problem)[0], strict=True)
    lost = [repr(readout.name) for readout, reading in pairs if readout.differentiable and not reading.carries]
    return Reason(f"it carries no gradient back from the readout {lost[0]}", mine=True) if lost else None


def _unstored(tensor: Tensor) -> Reason | None:
    shape = list(tensor.shape)
    if tensor.ndim > MOST_SLOT_DIMS:
        return Reason(f"a captured tensor or attn_mask has up to {MOST_SLOT_DIMS} dimensions, not {shape}", mine=True)
    if not tensor.numel():
        return Reason(f"a captured tensor is empty, {shape}")
    if dtype_name(tensor) not in STORED or (tensor.dtype == torch.float16 and not host().half):
        return Reason(f"it reads no captured tensor of {tensor.dtype}", mine=True)
    return None

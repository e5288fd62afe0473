"""Which problems this engine runs: what it does not, the portable engine does."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.engines.cpu.address import is_plain
from pellucid.engines.cpu.program import STORED
from pellucid.engines.cpu.specify import dtype_name
from pellucid.engines.cpu.target import host
from pellucid.problem import Problem
from pellucid.readouts import (
    Entropy,
    Expect,
    LogSumExp,
    MaxScore,
    Pooled,
    PooledMax,
    Readout,
    Received,
    TopK,
)

MOST_DIM = 256
MOST_SLOT_DIMS = 4
MOST_TOP = 128


def covers(problem: Problem) -> bool:
    """Whether this engine runs `problem`."""
    query = problem.query
    return (
        all(map(is_plain, problem.tensors))
        and not problem.dropout_p
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in problem.differentiable))
        and 1 <= query.shape[-1] <= MOST_DIM
        and 1 <= problem.value.shape[-1] <= MOST_DIM
        and torch.Size(problem.rows).numel() > 0
        and problem.k_len > 0
        and all(_readable(readout) for readout in problem.readouts)
        and all(_storable(load.value) for load in problem.loads)
        and (host().half or query.dtype != torch.float16)
    )


def _readable(readout: Readout) -> bool:
    if type(readout) is TopK:
        return readout.k <= MOST_TOP
    return type(readout) in (Entropy, Expect, LogSumExp, MaxScore, Received, Pooled, PooledMax)


def _storable(tensor: Tensor) -> bool:
    return (
        tensor.ndim <= MOST_SLOT_DIMS
        and tensor.numel() > 0
        and dtype_name(tensor) in STORED
        and (host().half or tensor.dtype != torch.float16)
    )

"""The five lines in torch operations, with the whole matrix: what people write who want to see the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.contract import Answer, Ready, UnableError
from benchmarks.task import Task
from pellucid.readouts import Entropy, Readout, Received, TopK

NAME = "eager"
PACKAGES = ()


def prepare(task: Task) -> Ready:
    call = task.call
    if task.score_mod is not None or task.mask_mod is not None or call.attn_mask is not None or call.enable_gqa:
        raise UnableError("is written here for self-attention, full or causal")
    if unknown := [readout.name for readout in task.readouts if not isinstance(readout, (Entropy, Received, TopK))]:
        raise UnableError(f"is not written here for {', '.join(unknown)}")
    return Ready(lambda: _attend(task), lambda result: Answer(*result))


def _attend(task: Task) -> tuple[Tensor, dict[str, Any]]:
    call = task.call
    scores = call.query @ call.key.mT * call.query.shape[-1] ** -0.5
    if call.is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~allowed, -torch.inf)
    weights = scores.softmax(-1)
    return weights @ call.value, {readout.name: _reading(readout, weights) for readout in task.readouts}


def _reading(readout: Readout, weights: Tensor) -> Any:
    if isinstance(readout, Entropy):
        return torch.special.entr(weights).sum(-1)
    return weights.sum(-2) if isinstance(readout, Received) else weights.topk(readout.k, -1)  # type: ignore[attr-defined]

"""torch's FlexAttention, compiled, with a block mask that is made beforehand and not timed."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from benchmarks.contenders.contract import Ready, UnableError
from benchmarks.task import Task
from pellucid import masks

NAME = "FlexAttention, compiled"
PACKAGES = ()


def prepare(task: Task) -> Ready:
    call = task.call
    if call.attn_mask is not None or call.query.ndim != 4 or task.readouts:
        raise UnableError("takes 4-D tensors, no mask tensor and no readouts")
    if task.dtype == torch.float64:
        raise UnableError("does not compute in float64 on a CPU")
    block_mask = _block_mask(task)
    run = _compiled()

    def attend() -> Any:
        return run(
            call.query,
            call.key,
            call.value,
            score_mod=task.score_mod,
            block_mask=block_mask,
            scale=call.scale,
            enable_gqa=call.enable_gqa,
        )

    return Ready(attend)


@cache
def _compiled() -> Any:
    """Every shape is a kernel of its own, as fast as torch can make it: more of them than torch allows by default."""
    torch._dynamo.config.recompile_limit = 1000
    return torch.compile(flex_attention, dynamic=False)


def _block_mask(task: Task) -> BlockMask | None:
    mask = task.mask_mod or (masks.causal() if task.call.is_causal else None)
    if mask is None:
        return None
    q_len, k_len = task.call.query.shape[-2], task.call.key.shape[-2]
    # It counts the parameters of a function, and ours is an object.
    return create_block_mask(lambda b, h, q, k: mask(b, h, q, k), None, None, q_len, k_len, device="cpu")

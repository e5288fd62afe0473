"""JAX's dot_product_attention, compiled by XLA, in its own layout."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.contract import Answer, Ready, UnableError
from benchmarks.task import Task

NAME = "JAX"
PACKAGES = ("jax",)


def prepare(task: Task) -> Ready:
    if not task.is_plain:
        raise UnableError("is run on plain attention, full or causal")
    if task.dtype == torch.float16:
        raise UnableError("does not compute in float16 on a CPU")
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))  # XLA's threads, read when it starts
    import jax

    jax.config.update("jax_enable_x64", True)
    call = task.call
    attend = jax.jit(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=call.is_causal))
    tensors = [_packed(tensor) for tensor in (call.query, call.key, call.value)]

    def answer(result: Any) -> Answer:
        return Answer(torch.from_dlpack(result).transpose(1, 2))

    return Ready(lambda: attend(*tensors).block_until_ready(), answer)


def _packed(tensor: Tensor) -> Any:
    """[batch, heads, length, dim] as JAX's [batch, length, heads, dim]."""
    import jax

    return jax.dlpack.from_dlpack(tensor.transpose(1, 2).contiguous())

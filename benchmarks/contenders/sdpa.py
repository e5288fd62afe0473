"""torch.nn.functional.scaled_dot_product_attention, with a mask as a dense tensor."""

from __future__ import annotations

from dataclasses import replace

from torch.nn.functional import scaled_dot_product_attention

from benchmarks.contenders.contract import Ready, UnableError
from benchmarks.contenders.training import stepping
from benchmarks.task import Task

NAME = "torch SDPA"
PACKAGES = ()


def prepare(task: Task) -> Ready:
    if task.score_mod is not None or task.readouts:
        raise UnableError("has no score functions and no readouts")
    if task.mask_mod is not None and task.dense_mask is None:
        raise UnableError("has no mask functions")
    call = task.call if task.dense_mask is None else replace(task.call, attn_mask=task.dense_mask)
    if task.trains:
        return stepping(
            replace(task, call=call), lambda given: (given.by(scaled_dot_product_attention, dropout_p=task.dropout_p),)
        )
    return Ready(lambda: call.by(scaled_dot_product_attention))

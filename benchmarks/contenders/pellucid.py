"""Pellucid itself: `attention`, or `observe` where readouts are asked for."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

import pellucid
from benchmarks.contenders.contract import Answer, Ready
from benchmarks.contenders.training import stepping
from benchmarks.task import Task
from tests.cases import Call

NAME = "pellucid"
PACKAGES = ()


def prepare(task: Task) -> Ready:
    functions = {"mask_mod": task.mask_mod, "score_mod": task.score_mod}
    if task.trains:
        return stepping(task, partial(_step, task, functions))
    if not task.readouts:
        return Ready(lambda: task.call.by(pellucid.attention, **functions))
    chosen = list(task.readouts)
    return Ready(
        lambda: task.call.by(pellucid.observe, **functions, readouts=chosen),
        lambda result: Answer(result[0], {readout.name: result[1][readout.name] for readout in chosen}),
    )


def _step(task: Task, functions: dict[str, Any], call: Call) -> tuple[Tensor, ...]:
    functions = functions | {"dropout_p": task.dropout_p}
    if not task.readouts:
        return (call.by(pellucid.attention, **functions),)
    output, seen = call.by(pellucid.observe, **functions, readouts=list(task.readouts))
    return output, *(seen[readout.name] for readout in task.readouts)

"""Pellucid itself: `attention`, or `observe` where readouts are asked for."""

from __future__ import annotations

import pellucid
from benchmarks.contenders.contract import Answer, Ready
from benchmarks.task import Task

NAME = "pellucid"
PACKAGES = ()


def prepare(task: Task) -> Ready:
    functions = {"mask_mod": task.mask_mod, "score_mod": task.score_mod}
    if not task.readouts:
        return Ready(lambda: task.call.by(pellucid.attention, **functions))
    chosen = list(task.readouts)
    return Ready(
        lambda: task.call.by(pellucid.observe, **functions, readouts=chosen),
        lambda result: Answer(result[0], {readout.name: result[1][readout.name] for readout in chosen}),
    )

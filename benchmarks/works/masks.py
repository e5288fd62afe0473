"""What a mask costs: the same call with and without one, whole or broadcast, bool or float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.goals import Costs
from benchmarks.task import Task, unmasked
from benchmarks.work import Entry, Race
from tests.cases import normal

SHAPE = (1, 12, 2048, 64)
HEADS, LENGTH = SHAPE[1:3]
WHOLE, BROADCAST = 1.20, 1.08  # times the unmasked call
ALLOWED = -1.28  # of normal numbers, nine in ten are larger: no tile is empty
SHAPES = {
    "full size": ((1, HEADS, LENGTH, LENGTH), WHOLE),
    "one for all heads": ((LENGTH, LENGTH), BROADCAST),
    "padded keys": ((1, 1, 1, LENGTH), BROADCAST),
}


def masks() -> Iterator[Race]:
    plain = partial(unmasked, *SHAPE, torch.float32)
    for described, (shape, most) in SHAPES.items():
        for kind in ("bool", "float"):
            task = partial(_masked, shape, kind)
            yield Race(
                f"{kind} mask, {described}, 1×12×2048×64",
                (
                    Entry("pellucid", task, "pellucid, masked"),
                    Entry("pellucid", plain, "pellucid, unmasked"),
                    Entry("torch SDPA", task, "torch SDPA, masked"),
                ),
                (Costs(most, "pellucid, unmasked"),),
                4 * HEADS * LENGTH**2 * SHAPE[3],
            )


def _masked(shape: tuple[int, ...], kind: str) -> Task:
    task = unmasked(*SHAPE, torch.float32)
    numbers = normal(*shape, dtype=torch.float32, seed=3)
    mask: Tensor = numbers > ALLOWED if kind == "bool" else numbers
    return replace(task, call=replace(task.call, attn_mask=mask))

"""Calls at which torch leaves its fused kernel and stores the matrix: 3-D tensors, a 3-D mask, a smaller value dim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from benchmarks import limits
from benchmarks.goals import Faster
from benchmarks.task import Task, tensors, unmasked
from benchmarks.work import Entry, Race
from tests.cases import Call, normal

OURS, SDPA = "pellucid", "torch SDPA"


def unusual() -> Iterator[Race]:
    yield _race("3-D input 12×2048×64", three_dimensions, 4 * 12 * 2048**2 * 64)
    yield _race("bool mask [8, 1024, 1024], 1×8×1024×64", mask_of_three_dimensions, 4 * 8 * 1024**2 * 64)
    yield _race("value dim 64, head_dim 128, 1×8×1024", smaller_value, 2 * 8 * 1024**2 * (64 + 128))


def three_dimensions() -> Task:
    """Tensors [heads, length, head_dim]."""
    shape = (12, 2048, 64)
    return Task(Call(*tensors(shape, shape, shape, dtype=torch.float32)))


def mask_of_three_dimensions() -> Task:
    """4-D tensors, and a mask [heads, q_len, k_len] of which nine in ten are allowed."""
    task = unmasked(1, 8, 1024, 64, torch.float32)
    return replace(task, call=replace(task.call, attn_mask=normal(8, 1024, 1024, seed=3) > -1.28))


def smaller_value() -> Task:
    """Values of half the keys' size."""
    wide, narrow = (1, 8, 1024, 128), (1, 8, 1024, 64)
    return Task(Call(*tensors(wide, wide, narrow, dtype=torch.float32)))


def _race(name: str, task: Callable[[], Task], amount: float) -> Race:
    entries = (Entry(OURS, task), Entry(SDPA, task))
    return Race(name, entries, (Faster(2.5, SDPA),), amount, limit=limits.FLOAT32)

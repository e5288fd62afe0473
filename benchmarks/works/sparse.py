"""Masks that leave most of the matrix empty, as functions: a sliding window, documents packed into one sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks import limits
from benchmarks.goals import Costs, Faster
from benchmarks.task import Task, unmasked
from benchmarks.work import Entry, Race
from pellucid import masks

LENGTH, DIM, WINDOW, MEAN = 16_384, 64, 256, 512
LENGTHS = (262_144, 131_072, 65_536, 32_768, 16_384)
LINEAR = 1.1  # times as long a token, at most: a tenth is what larger tensors cost in the caches
CONTENDERS = ("pellucid", "torch SDPA", "FlexAttention, compiled")


def sparse() -> Iterator[Race]:
    yield _race(f"window of {WINDOW}, {LENGTH} tokens", partial(window, LENGTH), window_pairs(LENGTH), 15)
    yield _race(
        f"documents of {MEAN} on average, {LENGTH} tokens", documents, float(document_lengths().pow(2).sum()), 8
    )
    yield linear()


def linear() -> Race:
    """The same window at longer and longer sequences, as time a token."""
    entries = (
        Entry("pellucid", partial(window, n, dense=False), f"pellucid, {n} tokens, time a token", n) for n in LENGTHS
    )
    name = f"pellucid, {LENGTHS[-1]} tokens, time a token"
    return Race(f"window of {WINDOW}, linear in the length", tuple(entries), (Costs(LINEAR, name),))


def window(length: int, dense: bool = True) -> Task:
    """The window's own 256 keys up to the query, one head."""
    distance = torch.arange(length)[:, None] - torch.arange(length) if dense else None
    return replace(
        unmasked(1, 1, length, DIM, torch.float32),
        mask_mod=masks.sliding_window(WINDOW - 1, 0),
        dense_mask=None if distance is None else (distance >= 0) & (distance < WINDOW),
    )


def window_pairs(length: int) -> float:
    """Pairs of query and key that the window allows."""
    return length * WINDOW - WINDOW * (WINDOW - 1) / 2


def documents() -> Task:
    """Every token looks at its own document, one head."""
    lengths = document_lengths()
    ids = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return replace(
        unmasked(1, 1, LENGTH, DIM, torch.float32),
        mask_mod=masks.documents(ids),
        dense_mask=ids[:, None] == ids,
    )


def document_lengths() -> Tensor:
    """32 lengths, mean 512, from splitting the sequence at random places."""
    generator = torch.Generator().manual_seed(0)
    cuts = torch.randperm(LENGTH - 1, generator=generator)[: LENGTH // MEAN - 1].add(1).sort().values
    return torch.diff(torch.cat([torch.tensor([0]), cuts, torch.tensor([LENGTH])]))


def _race(name: str, task: Callable[[], Task], pairs: float, times: float) -> Race:
    return Race(
        name,
        tuple(Entry(contender, task) for contender in CONTENDERS),
        (Faster(times, "torch SDPA"),),
        4 * pairs * DIM,
        limit=limits.FLOAT32,
    )

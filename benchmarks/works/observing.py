"""What readouts cost beside the plain pass, and what they save beside eager attention, which has the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from benchmarks.goals import Costs, Faster
from benchmarks.task import Shape, Task, unmasked
from benchmarks.work import Entry, Race
from pellucid.readouts import (
    Entropy,
    LogSumExp,
    Pooled,
    Readout,
    Received,
    TopK,
    mass_on_first,
    mass_on_previous,
    mean_distance,
)

SHAPE = (1, 12, 2048, 64)
LARGE = (1, 12, 4096, 64)
EXPECTS = (mean_distance, mass_on_first, mass_on_previous)


def together() -> tuple[Readout, ...]:
    """All that a viewer asks of a layer."""
    return (LogSumExp(), Entropy(), *(expect() for expect in EXPECTS), TopK(8), Pooled(256, 256))


def observing() -> Iterator[Race]:
    yield _beside_plain("lse, entropy, three Expect, top 8, pooled 256 × 256", together(), 1.35)
    yield _beside_plain("received", (Received(),), 1.65)
    yield _beside_eager("entropy, received", (Entropy(), Received()))
    yield _beside_eager("entropy, received, top 8", (Entropy(), Received(), TopK(8)))


def _beside_plain(name: str, readouts: tuple[Readout, ...], most: float) -> Race:
    plain = partial(unmasked, *SHAPE, torch.float32)
    observed = partial(_observed, SHAPE, readouts)
    return Race(
        f"{name}, 1×12×2048×64",
        (Entry("pellucid", observed, "pellucid, observed"), Entry("pellucid", plain, "pellucid, plain")),
        (Costs(most, "pellucid, plain"),),
        4 * SHAPE[1] * SHAPE[2] ** 2 * SHAPE[3],
    )


def _beside_eager(name: str, readouts: tuple[Readout, ...]) -> Race:
    task = partial(_observed, LARGE, readouts)
    return Race(
        f"{name}, 1×12×4096×64",
        (Entry("pellucid", task), Entry("eager", task)),
        (Faster(4, "eager"),),
        4 * LARGE[1] * LARGE[2] ** 2 * LARGE[3],
    )


def _observed(shape: Shape, readouts: tuple[Readout, ...]) -> Task:
    batch, heads, length, dim = shape
    return replace(unmasked(batch, heads, length, dim, torch.float32), readouts=readouts)

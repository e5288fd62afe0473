"""Readouts of every class that there is, for the tests that each of them must pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import isabstract, isclass

import pytest
import torch

from pellucid import readouts
from pellucid.readouts import Readout

# Each class, and examples of it for a sequence of some length, which has 5 keys or more.
EXAMPLES: dict[type[Readout], list[Callable[[int], Readout]]] = {
    readouts.At: [
        lambda length: readouts.At(torch.arange(length)[:, None] * torch.tensor([1, 2, 0]) % 5 - 1),
        lambda length: readouts.At(torch.tensor([[0, -1, 3, 3]]), sum_heads=True),
    ],
    readouts.Entropy: [lambda length: readouts.Entropy(), lambda length: readouts.Entropy(sink=False)],
    readouts.Expect: [lambda length: readouts.mean_distance()],
    readouts.LogSumExp: [lambda length: readouts.LogSumExp()],
    readouts.MaxScore: [lambda length: readouts.MaxScore()],
    readouts.Pooled: [lambda length: readouts.Pooled(2, 3)],
    readouts.PooledMax: [lambda length: readouts.PooledMax(3, 2)],
    readouts.Received: [lambda length: readouts.Received(), lambda length: readouts.Received(slice(2, None, 2))],
    readouts.Renyi: [
        lambda length: readouts.Renyi(0),
        lambda length: readouts.Renyi(0.7),
        lambda length: readouts.Renyi(2, sink=False),
        lambda length: readouts.Renyi(math.inf),
    ],
    readouts.TopK: [lambda length: readouts.TopK(3)],
}


def exported() -> list[type[Readout]]:
    """The classes of readouts that the package has."""
    found = (getattr(readouts, name) for name in readouts.__all__)
    return [kind for kind in found if isclass(kind) and issubclass(kind, Readout) and not isabstract(kind)]


def every() -> list[Callable[[int], Readout]]:
    """An example after the other."""
    return [example for kind in exported() for example in EXAMPLES.get(kind, ())]


def label(example: Callable[[int], Readout]) -> str:
    """What a test of an example is called."""
    readout = example(5)
    return f"{readout.name}{list(readout.numbers)}"


each = pytest.mark.parametrize("example", every(), ids=label)

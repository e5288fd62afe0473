"""The numbers that a profile sums up of each head, and the bins that they are counted in."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.record.studies.summary import PAIRED

WITHOUT = "_without_sink"
NUMBERS = ("sink_mass", "first_mass", "sink", *PAIRED, *(name + WITHOUT for name in PAIRED))
NUMBER_OF = {name: place for place, name in enumerate(NUMBERS)}
BINS = 64
_ENTROPY_STEP = 0.25  # nats, so up to the entropy of nine million keys


def edges(name: str) -> Tensor:
    """The edges of a number's bins, float64 [BINS + 1].

    A bin has its lower edge and not its upper one; the last has both, and everything above. Shares have equal bins from
    0 to 1, entropies of a quarter of a nat, distances two to an octave.
    """
    steps = torch.arange(BINS + 1, dtype=torch.float64, device="cpu")
    plain = name.removesuffix(WITHOUT)
    if plain == "entropy":
        return steps * _ENTROPY_STEP
    if plain == "distance":
        octaves = 2.0 ** torch.arange(BINS // 2, dtype=torch.float64, device="cpu")
        return torch.cat([torch.zeros(1, device="cpu"), torch.stack([octaves, octaves * 1.5], -1).flatten()])
    return steps / BINS


def all_edges() -> Tensor:
    """The edges of all numbers, float64 [numbers, BINS + 1]."""
    return torch.stack([edges(name) for name in NUMBERS])


def number_of(name: str) -> int:
    """The place of a number. Raises ValueError for what is none."""
    if name not in NUMBER_OF:
        raise ValueError(f"number: one of {', '.join(NUMBERS)}, got {name!r}")
    return NUMBER_OF[name]

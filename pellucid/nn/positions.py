"""A user's functions of positions, called while decoding: they count queries from the start of the sequence.

Attention sees only the queries of one step and numbers them from 0, while keys come from the cache and are numbered
from the start. With queries renumbered, a sliding window or a bias means the same in one pass and step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.language.shift import by_index
from pellucid.readouts import Readout

__all__ = ["MaskMod", "ScoreMod", "function_from", "readouts_from"]

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (b, h, q_idx, kv_idx) -> bool
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]  # (score, b, h, q_idx, kv_idx) -> score


def function_from(function: Callable[..., Any] | None, start: int) -> Callable[..., Any] | None:
    """`function` of a place (a mask_mod or a score_mod) for a call whose first query stands at position `start`."""
    return function if function is None or start == 0 else _renumbered(function, start)


def readouts_from(readouts: Sequence[Readout] | None, start: int) -> Sequence[Readout] | None:
    """`readouts` of a call of a sequence, whose first query stands at position `start`."""
    if readouts is None:
        return None
    return [r.renumbered(lambda function: by_index(function, start, 0, torch.device("cpu"))) for r in readouts]


def _renumbered(function: Callable[..., Any], start: int) -> Callable[..., Any]:
    # A captured tensor, not a number: one compiled kernel then serves every step.
    first = torch.tensor(start, device="cpu")

    def renumbered(*place: Any) -> Any:
        *before, q_idx, kv_idx = place
        return function(*before, q_idx + first, kv_idx)

    # Error messages name the function that the user wrote.
    renumbered.__name__ = getattr(function, "__name__", type(function).__name__)
    return renumbered

"""What an engine returns."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Result(NamedTuple):
    """The output of one problem, and what was read on the way."""

    output: Tensor  # [*batch, heads, q_len, value_dim]
    lse: Tensor  # [*batch, heads, q_len]
    readings: dict[str, Any]  # a readout's name: its result

"""The engine without the face, which makes one operator of a call inside a TorchDispatchMode: here it looks inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pellucid import engines
from pellucid.arguments import describe
from pellucid.observation import Observation
from pellucid.readouts import Readout

DEFAULTS = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": True}
DEFAULTS |= {"score_mod": None, "mask_mod": None, "sinks": None}


def observe(
    query: Tensor, key: Tensor, value: Tensor, readouts: Sequence[Readout], **call: Any
) -> tuple[Tensor, Observation]:
    """What `pellucid.observe` gives, grouped heads enabled."""
    problem, shaped = describe(query, key, value, **(DEFAULTS | call), readouts=tuple(readouts))
    result = engines.run(problem)
    return shaped(result.output), Observation(problem, result, shaped)

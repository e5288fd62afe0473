"""The engine without the face, which makes one operator of a call inside a TorchDispatchMode: here it looks inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pellucid import engines
from pellucid.arguments import Arguments, describe
from pellucid.observation import Observation
from pellucid.readouts import Readout


def observe(
    query: Tensor, key: Tensor, value: Tensor, readouts: Sequence[Readout], **call: Any
) -> tuple[Tensor, Observation]:
    """What `pellucid.observe` gives, grouped heads enabled."""
    problem, shaped = describe(Arguments(query, key, value, enable_gqa=True, readouts=tuple(readouts), **call))
    result = engines.run(problem)
    return shaped(result.output), Observation(problem, result, shaped)

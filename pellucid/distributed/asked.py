"""Whether a call is one of several ranks; torch.distributed is imported only then."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pellucid.arguments import Arguments
from pellucid.observation import Observation

if TYPE_CHECKING:
    from pellucid.distributed.placements import Posed


def is_sharded(call: Arguments) -> bool:
    """Whether any of query, key and value is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")  # without it there is none
    return module is not None and any(isinstance(tensor, module.DTensor) for tensor in call[:3])


def sharded(call: Arguments, asked: list[Any] | None = None) -> tuple[Tensor, Observation | None]:
    """A call of several ranks: the output, and what was seen if readouts, the argument of `observe`, are asked."""
    from pellucid.distributed.placements import shared

    return shared(call, asked)


def part_of(call: Arguments) -> Posed:
    """A rank's own part of a call of DTensors, as a problem of its own; all ranks ask for it together."""
    from pellucid.distributed.placements import posed

    return posed(call)

"""LogSumExp: every call has it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pellucid.engines.cpu.stages.gradient import Back, Carried
from pellucid.engines.cpu.stages.stage import Found, Reading


class LogSumExpReading(Reading):
    """The lse that weights are computed from."""

    def result(self, readout: Any, found: Found) -> Tensor:
        """The call's own."""
        return found.lse

    carries = True

    def carried(self, name: str, readout: Any, back: Back) -> Carried:
        """The same for each of a row's weights, and its sink's."""
        return Carried(None, back.gradient)

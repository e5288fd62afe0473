"""LogSumExp: every call has it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pellucid.engines.cpu.stages.stage import Found, Reading


class LogSumExpReading(Reading):
    """The lse that weights are computed from."""

    def result(self, readout: Any, found: Found) -> Tensor:
        """The call's own."""
        return found.lse

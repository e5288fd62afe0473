"""Linear layers of an accelerated model: one row at a time, they go at the speed at which memory is read.

Beside attention a step of a generation is little else. All other inputs go torch's way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid import engines
from pellucid.engines import repeated
from pellucid.engines.cpu.kernels.linear_row import DTYPES, row_through
from pellucid.engines.cpu.machine.address import is_plain


class RowLinear(nn.Linear):
    """nn.Linear, but for one row of bfloat16 or float32."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, [..., out_features]."""
        if torch.compiler.is_compiling() or not _is_one_row(input, self.weight, self.bias):
            return super().forward(input)
        return row_through(input, self.weight, self.bias)


def _is_one_row(row: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a layer's operands are one row and weights that simply lie in memory, and their product is all."""
    if row.dtype not in DTYPES or row.numel() != weight.shape[-1] or row.shape[-1:] != weight.shape[-1:]:
        return False
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):  # torch would spread them
        return False
    operands = (row, weight) if bias is None else (row, weight, bias)
    return (
        all(_is_plain(tensor, row.dtype) for tensor in operands)
        and engines.preferred() == "cpu"
        and not repeated.looked_on()
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in operands))
    )


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    return (
        tensor.__class__ in repeated.PLAIN
        and tensor.dtype is dtype
        and tensor.numel() > 0
        and tensor.stride(-1) == 1
        and is_plain(tensor)
    )

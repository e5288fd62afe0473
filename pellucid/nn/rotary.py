"""Rotary position embedding (Su et al., "RoFormer", 2021): a query or key is turned by an angle given by its position.

The scores of turned queries and keys depend on how far apart they are, not on where they stand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pellucid.distributed.asked import is_shared_here, spans_here
from pellucid.nn.sharded import replicated

__all__ = ["Rotary"]


class Rotary(nn.Module):
    """Turns queries or keys by their positions, in the half-split convention of Llama and GPT-NeoX.

    Coordinate i is paired with coordinate i + head_dim / 2, and at position p the pair is turned by an angle:

        angle                    = p · base^(-2i / head_dim)
        turned[i]                = x[i] cos(angle) - x[i + head_dim / 2] sin(angle)
        turned[i + head_dim / 2] = x[i + head_dim / 2] cos(angle) + x[i] sin(angle)

    (The paper pairs neighbours, 2i with 2i + 1. Weights of one convention need their rows permuted for the other.)

    It has no parameters and no state to save, and several layers may share one. Angles are computed in float64 and
    applied in float32, or in float64 where x is, so far positions lose nothing in a model of lower precision.

    Args:
        head_dim: width of a head, even.
        base: the longest wavelength is 2π · base, in positions, as head_dim grows.

    Raises:
        ValueError: head_dim is odd, or one of them is not positive.

    Example:
        >>> rotary = Rotary(head_dim=6)
        >>> rotary(torch.ones(5, 6), start=7).shape
        torch.Size([5, 6])
    """

    def __init__(self, head_dim: int, base: float = 10_000.0) -> None:
        super().__init__()
        if head_dim <= 0 or head_dim % 2:
            raise ValueError(f"head_dim: rotary positions turn pairs, so it must be even and positive, got {head_dim}.")
        if not base > 0:
            raise ValueError(f"base: must be positive, got {base}.")
        self.head_dim = head_dim
        self.base = float(base)
        # Not a buffer: `module.to(torch.bfloat16)` would round the angles.
        self._table: tuple[Tensor, Tensor] | None = None

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"head_dim={self.head_dim}, base={self.base:g}"

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """`x` turned by the positions start, start + 1, ..., inside `context_parallel` by those that this rank has.

        Args:
            x: queries or keys, `[..., length, head_dim]`.
            start: position of the first one: the number of positions already seen.

        Returns:
            Same shape and dtype as `x`.

        Raises:
            ValueError: x is not head_dim wide, or a start inside `context_parallel`.
        """
        if x.shape[-1] != self.head_dim:
            raise ValueError(f"x: must be [..., length, {self.head_dim}] for this Rotary, got {list(x.shape)}.")
        spans = _spans(start, x.shape[-2])
        tables = self._table_for(x, max(span.stop for span in spans))  # [positions, head_dim / 2]
        cosine, sine = (replicated(_rows(table, spans), x) for table in tables)
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
        return turned.to(x.dtype)

    def _table_for(self, x: Tensor, positions: int) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        table = self._table
        if table is None or table[0].shape[0] < positions or table[0].dtype != dtype or table[0].device != x.device:
            table = self._table = self._compute_table(_next_power_of_two(positions), dtype, x.device)
        return table

    # A table made in inference mode could not be used in training afterwards.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _compute_table(self, positions: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        # On the CPU first: not every device has float64.
        pair = torch.arange(self.head_dim // 2, dtype=torch.float64, device="cpu")
        position = torch.arange(positions, dtype=torch.float64, device="cpu")
        angle = torch.outer(position, self.base ** (-2.0 * pair / self.head_dim))
        return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def _spans(start: int, length: int) -> Sequence[range]:
    """The positions of so many rows from `start` on; of a sequence that lies on several ranks, this rank's."""
    if not is_shared_here():
        return [range(start, start + length)]
    if start:
        raise ValueError("start: inside context_parallel positions are those of the whole sequence, which start at 0")
    return spans_here(length) or [range(0)]


def _rows(table: Tensor, spans: Sequence[range]) -> Tensor:
    parts = [table[span.start : span.stop] for span in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _next_power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()

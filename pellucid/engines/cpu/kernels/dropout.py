"""Dropout in a kernel: which weights are kept, by `pellucid.dropout`'s hash, in vectors of 32-bit lanes.

What is known of a row takes two hashes of 64 bits in scalar code; of a vector of weights, one of 32 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pellucid.dropout import BITS, FACTORS, FAR_STEP, SHIFTS, STEP
from pellucid.engines.cpu.kernels.block import Block
from pellucid.engines.cpu.machine.builder import F64, I32, Value

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.kernel import Kernel


class Row(NamedTuple):
    """What decides about the weights of a row in a tile."""

    first: Value  # the hash's argument for the tile's first key, before `second`; an int32, as all of these
    second: Value
    limit: Value


class Dropout:
    """Which of a kernel's weights are kept, and what these are multiplied by."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.code, self.lanes = kernel, kernel.code, kernel.lanes

    def of_row(self, block: Block, row: Value) -> Row:
        """What is known of a row of the block."""
        place = block.task.pair * self.kernel.q_len + block.query + row
        bits = self._mixed(self._mixed(place) ^ self.kernel.argument("dropout_seed"))
        first = bits.to(I32) + (block.key * _signed(STEP)).to(I32)
        # No tile goes beyond a multiple of 2 ** 32 keys.
        second = (bits >> 32).to(I32) ^ ((block.key >> 32) * _signed(FAR_STEP)).to(I32)
        limit = ((self._unsigned(bits, 32) + self.kernel.argument("dropout_probability")) >> 32).to(I32)
        return Row(first, *(self.code.spread(number, self.lanes) for number in (second, limit)))

    def kept(self, row: Row, place: Value) -> Value:
        """Whether each of a vector of the row's weights is kept.

        Args:
            row: what is known of the row.
            place: the vector's first key, counted from the tile's: a 64-bit integer of the kernel.

        """
        step = _signed(STEP)
        first = self.code.spread(row.first + place.to(I32) * step, self.lanes)
        return self._hashed((first + self.code.ramp(I32, self.lanes) * step) ^ row.second) >= row.limit

    def scale(self) -> Value:
        """What weights that are kept are multiplied by."""
        return self.kernel.argument("dropout_scale").bits(F64).to(self.kernel.number)

    def _mixed(self, x: Value) -> Value:
        x = x + -0x61C8864680B583EB
        x = (x ^ self._unsigned(x, 30)) * -0x40A7B892E31B1A47
        x = (x ^ self._unsigned(x, 27)) * -0x6B2FB644ECCEEE15
        return x ^ self._unsigned(x, 31)

    def _hashed(self, x: Value) -> Value:
        for factor, bits in zip(FACTORS, SHIFTS, strict=True):
            x = (x ^ self._unsigned(x, bits)) * factor
        return self._unsigned(x, 32 - BITS)

    def _unsigned(self, x: Value, bits: int) -> Value:
        """Shifted to the right, zeros shifted in."""
        return Value(self.code, self.code.ir.lshr(x.raw, self.code.constant(x.type, bits).raw))


def _signed(number: int) -> int:
    """The int32 of the same bits."""
    return number - 2**32 if number >= 2**31 else number

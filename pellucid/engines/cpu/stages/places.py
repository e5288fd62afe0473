"""Gradients of the weights of some keys of each row, as At and TopK give them: each is added at its key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.engines.cpu.machine.builder import I32, Value, vector
from pellucid.engines.cpu.stages.gradient import Carried, GradientStage, Weights

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.backward.kernel import Backward
    from pellucid.engines.cpu.kernels.block import Block
    from pellucid.engines.cpu.layout import Spec


@dataclass(frozen=True)
class PlacesStage(GradientStage):
    """As many gradients and their keys a row, each laid where its key is in the tile."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Keys and gradients, [*batch, heads, q_len, count]."""
        return f"{self.name}_keys", f"{self.name}_gradients", f"{self.name}_count"

    def scratch(self, spec: Spec, rows: int) -> dict[str, int]:
        """A row's gradients by key, of as many rows as go together."""
        return {self.name: spec.per_word * spec.tile_stride}

    def known(self, backward: Backward, block: Block, row: Value) -> Value:
        """Where the gradients of the tile's keys are laid out; a key that comes twice has the sum."""
        code, spec, lanes = backward.code, backward.spec, backward.lanes
        laid = code.at(backward.scratch[self.name], (row & (spec.per_word - 1)) * spec.tile_stride, spec.number)
        code.clear(laid, code.i64(spec.tile_stride), spec.number)
        count = backward.argument(f"{self.name}_count")
        first = (block.task.pair * backward.q_len + block.row + row) * count
        keys = code.at(backward.pointer(f"{self.name}_keys"), first, I32)
        gradients = code.at(backward.pointer(f"{self.name}_gradients"), first, spec.number)

        def one(j: Value) -> None:
            key, number = code.load(keys, I32, j), code.load(gradients, spec.number, j)
            place = key.to(block.key.type) - block.key
            with code.when((place >= 0) & (place < block.count)):
                code.store(laid, code.load(laid, spec.number, place) + number, place)

        def some(j: Value) -> None:
            left = code.spread((count - j).to(I32), lanes) > code.ramp(I32, lanes)
            key = code.masked_load(keys, vector(I32, lanes), left, j)
            place = key - code.spread(block.key.to(I32), lanes)
            here = left & (place >= 0) & (place < code.spread(block.count.to(I32), lanes))
            with code.when(code.any(here)):
                code.loop(j, code.minimum(j + lanes, count), one)

        code.loop(0, count, some, step=lanes)
        return laid

    def upstream(self, weights: Weights, known: Value, so_far: Value) -> Value:
        """With what was laid there."""
        backward = weights.backward
        return so_far + backward.code.load(known, backward.type, weights.place)


def carried_weights(name: str, keys: Tensor, weights: Tensor, gradient: Tensor) -> Carried:
    """What the gradients of the weights of some keys come to.

    D weight j / d score k = weight j (1 if j is k - weight k).

    Args:
        name: of the stage.
        keys: which, -1 for none; they broadcast to the weights' shape.
        weights: of those keys, [*batch, heads, q_len, count].
        gradient: of the weights, broadcasting to their shape.

    """
    tensors = {
        f"{name}_keys": keys.to(torch.int32).expand(weights.shape).contiguous(),
        f"{name}_gradients": gradient.expand(weights.shape).contiguous(),
    }
    offset = -(gradient * weights).sum(-1)
    return Carried(PlacesStage(name), offset, tensors, {f"{name}_count": weights.shape[-1]})

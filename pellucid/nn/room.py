"""Memory reserved ahead for keys and values that grow step by step: each row of it is written once.

Whoever was given the first rows may hold on to them. What goes back and then grows again, or grows in two copies, gets
memory of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Room:
    """Memory `[..., positions, dim]` whose positions are handed out once, from the first on.

    Args:
        memory: the memory.
        written: positions that are written already.

    """

    def __init__(self, memory: Tensor, written: int) -> None:
        self.memory = memory
        self._next = {written: True}  # popped by one of several threads or copies: a position has one owner

    def claim(self, held: Tensor, end: int) -> bool:
        """Whether the positions behind `held` up to `end` are whoever asks to write, from now on."""
        return (
            self.memory.shape[-2] >= end
            and _can_write(self.memory)
            and self._begins_with(held)
            and self._take(held.shape[-2], end)
        )

    def write(self, length: int, new: Tensor) -> Tensor:
        """All positions up to the last of `new`, which comes after the first `length`."""
        end = length + new.shape[-2]
        # Through `data`: nothing that was given out changes, so autograd need not hear of a change.
        self.memory.data[..., length:end, :] = new
        return self.memory[..., :end, :]

    def _begins_with(self, held: Tensor) -> bool:
        """Whether `held` is the beginning of the memory: reordered, repeated or reset it is another tensor."""
        memory = self.memory
        return (
            held.ndim == memory.ndim
            and held.data_ptr() == memory.data_ptr()
            and held.stride() == memory.stride()
            and held.shape[:-2] == memory.shape[:-2]
        )

    def _take(self, length: int, end: int) -> bool:
        if not self._next.pop(length, False):
            return False
        self._next[end] = True
        return True


def grown(room: Room | None, held: Tensor | None, new: Tensor, capacity: int) -> tuple[Room, Tensor]:
    """`held` with `new` after it, and the room in which both lie: the same one as long as it is theirs to write.

    Args:
        room: where `held` lies, if it was made by this function.
        held: `[..., length, dim]`, or None.
        new: `[..., new, dim]`.
        capacity: positions to reserve if a new room is needed.

    """
    length = 0 if held is None else held.shape[-2]
    end = length + new.shape[-2]
    if room is None or held is None or not room.claim(held, end):
        room = Room(new.new_empty(*new.shape[:-2], max(end, capacity), new.shape[-1]), end)
        if held is not None:
            room.write(0, held)
    return room, room.write(length, new)


def _can_write(memory: Tensor) -> bool:
    """Memory made in inference mode cannot be written outside of it."""
    return torch.is_inference_mode_enabled() or not memory.is_inference()

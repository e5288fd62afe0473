"""Keys and values of the positions already seen, kept for the next decoding step.

A cache belongs to one layer and one batch of sequences. It knows nothing of positions, masks or projections.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.nn.room import Room, grown
from pellucid.nn.sharded import is_sharded, like_it, own_part, placements_of

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """The keys and values that one attention layer has projected so far.

    Without gradients (`torch.no_grad`, `torch.inference_mode`) new positions are written into memory reserved ahead,
    which doubles when it is full: a step costs what it adds. With gradients enabled every step concatenates, because
    autograd may hold on to what was there before, and gradients flow back through all steps; so it does in
    torch.compile, whose graph would otherwise hold for one length. What the cache has given out never changes: the step
    after `truncate`, or that of a copy, takes fresh memory.

    Args:
        capacity: positions to reserve at the first `append`; 0 reserves what it brings.

    Attributes:
        length: positions held.

    Raises:
        ValueError: a capacity below 0.

    Example:
        >>> cache = KeyValueCache()
        >>> keys, values = cache.append(torch.ones(2, 3, 5), torch.ones(2, 3, 5))
        >>> keys, values = cache.append(torch.zeros(2, 1, 5), torch.zeros(2, 1, 5))
        >>> cache.length, tuple(keys.shape)
        (4, (2, 4, 5))
    """

    def __init__(self, capacity: int = 0) -> None:
        if capacity < 0:
            raise ValueError(f"capacity: cannot be negative, got {capacity}.")
        self._capacity = capacity
        self._key: Tensor | None = None
        self._value: Tensor | None = None
        self._rooms: tuple[Room | None, Room | None] = (None, None)

    def __repr__(self) -> str:
        return f"KeyValueCache(length={self.length})"

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: keys and values of their own, without what is reserved behind them."""
        held = {name: getattr(self, name) for name in ("_key", "_value")}
        own = {name: None if tensor is None else tensor.clone() for name, tensor in held.items()}
        return vars(self) | own | {"_rooms": (None, None)}

    @property
    def length(self) -> int:
        """Positions held."""
        return 0 if self._key is None else self._key.shape[-2]

    @property
    def key(self) -> Tensor:
        """All keys held, `[..., kv_heads, length, head_dim]`."""
        return _held(self._key)

    @property
    def value(self) -> Tensor:
        """All values held, `[..., kv_heads, length, head_dim]`."""
        return _held(self._value)

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, these last.

        Args:
            key: `[..., kv_heads, new, head_dim]`.
            value: the same shape as `key`.

        Returns:
            Keys and values `[..., kv_heads, length, head_dim]`: views of the cache that nothing later changes.

        Raises:
            ValueError: key and value disagree, or differ from what is held in more than their length.
        """
        self._check(key, value)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._key, self._value = _appended(self._key, key), _appended(self._value, value)
            return self.key, self.value
        capacity = max(self._capacity, 2 * self.length)
        key_room, held_key = _grown(self._rooms[0], self._key, key, capacity)
        value_room, held_value = _grown(self._rooms[1], self._value, value, capacity)
        self._key, self._value, self._rooms = held_key, held_value, (key_room, value_room)
        return held_key, held_value

    def truncate(self, length: int) -> None:
        """Forget all positions but the first `length`, as after a guess that was refused.

        What `append` has returned, and observations of it, stay as they are; the next step copies what is left.

        Raises:
            ValueError: there are fewer positions than `length`, or it is negative.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"length: must be from 0 to the {self.length} positions held, got {length}.")
        if self._key is not None and self._value is not None:
            self._key, self._value = self._key[..., :length, :], self._value[..., :length, :]

    def _check(self, key: Tensor, value: Tensor) -> None:
        if key.shape != value.shape:
            raise ValueError(f"value: its shape {list(value.shape)} must be key's {list(key.shape)}.")
        held = self._key
        if held is None:
            return
        if key.shape[:-2] != held.shape[:-2] or key.shape[-1] != held.shape[-1]:
            expected = [*held.shape[:-2], "any", held.shape[-1]]
            raise ValueError(
                f"cache: it holds keys of shape {expected} and was given {list(key.shape)}. "
                "Use one cache for each layer and batch of sequences."
            )
        if placements_of(key) != placements_of(held):
            raise ValueError(
                f"cache: it holds keys that lie as {placements_of(held)} and was given some as {placements_of(key)}. "
                "Start a new cache after sharding the model."
            )
        if key.dtype != held.dtype or key.device != held.device:
            raise ValueError(
                f"cache: it holds {held.dtype} on {held.device} and was given {key.dtype} on {key.device}. "
                "Start a new cache after moving or casting the model."
            )


def _held(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("cache: it is empty. Append keys and values before reading them.")
    return tensor


def _grown(room: Room | None, held: Tensor | None, new: Tensor, capacity: int) -> tuple[Room | None, Tensor]:
    """`grown`, of a rank's own part where keys are DTensors."""
    if not is_sharded(new):
        return grown(room, held, new, capacity)
    if any(place.is_shard(new.ndim - 2) for place in new.placements):  # type: ignore[attr-defined]
        return None, _appended(held, new)
    own = None if held is None else own_part(held)
    room, local = grown(room, own, own_part(new), capacity)
    return room, like_it(local, new)


def _appended(held: Tensor | None, new: Tensor) -> Tensor:
    return new if held is None else torch.cat((held, new), dim=-2)

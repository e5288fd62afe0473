"""Keys and values of the positions already seen, kept for the next decoding step.

A cache belongs to one layer and one batch of sequences. It knows nothing of positions, masks or projections.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """The keys and values that one attention layer has projected so far.

    Without gradients (`torch.no_grad`, `torch.inference_mode`) new positions are written into memory reserved ahead,
    which doubles when it is full: a step costs what it adds. With gradients enabled every step concatenates, because
    autograd may hold on to what was there before, and gradients flow back through all steps.

    Args:
        capacity: positions to reserve at the first `append`; 0 reserves what it brings.

    Attributes:
        length: positions held.

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
        self.length = 0
        self._capacity = capacity
        self._key: Tensor | None = None
        self._value: Tensor | None = None

    def __repr__(self) -> str:
        return f"KeyValueCache(length={self.length})"

    @property
    def key(self) -> Tensor:
        """All keys held, `[..., kv_heads, length, head_dim]`."""
        return _held(self._key, self.length)

    @property
    def value(self) -> Tensor:
        """All values held, `[..., kv_heads, length, head_dim]`."""
        return _held(self._value, self.length)

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, these last.

        Args:
            key: `[..., kv_heads, new, head_dim]`.
            value: the same shape as `key`.

        Returns:
            Keys and values `[..., kv_heads, length, head_dim]`: views of the cache that later steps leave as they are.

        Raises:
            ValueError: key and value disagree, or differ from what is held in more than their length.
        """
        self._check(key, value)
        end = self.length + key.shape[-2]
        self._key = self._extended(self._key, key, end)
        self._value = self._extended(self._value, value, end)
        self.length = end
        return self.key, self.value

    def truncate(self, length: int) -> None:
        """Forget all positions but the first `length`, as after a guess that was refused.

        Later steps overwrite the forgotten ones, also in what `append` has returned and in observations of it.

        Raises:
            ValueError: there are fewer positions than `length`, or it is negative.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"length: must be from 0 to the {self.length} positions held, got {length}.")
        self.length = length

    def _extended(self, held: Tensor | None, new: Tensor, end: int) -> Tensor:
        if torch.is_grad_enabled():
            return new if held is None else torch.cat((held[..., : self.length, :], new), dim=-2)
        if held is None or not _can_write(held, end):
            held = self._reserved(held, new, end)
        held[..., self.length : end, :] = new
        return held

    def _reserved(self, held: Tensor | None, new: Tensor, end: int) -> Tensor:
        capacity = max(end, self._capacity, 2 * self.length)
        larger = new.new_empty(*new.shape[:-2], capacity, new.shape[-1])
        if held is not None:
            larger[..., : self.length, :] = held[..., : self.length, :]
        return larger

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
        if key.dtype != held.dtype or key.device != held.device:
            raise ValueError(
                f"cache: it holds {held.dtype} on {held.device} and was given {key.dtype} on {key.device}. "
                "Start a new cache after moving or casting the model."
            )


def _held(tensor: Tensor | None, length: int) -> Tensor:
    if tensor is None:
        raise ValueError("cache: it is empty. Append keys and values before reading them.")
    return tensor[..., :length, :]


def _can_write(held: Tensor, end: int) -> bool:
    """Whether positions up to `end` fit; memory made in inference mode cannot be written outside of it."""
    return held.shape[-2] >= end and (torch.is_inference_mode_enabled() or not held.is_inference())

"""The key-value cache of transformers, growing in place: a step writes what it adds, instead of copying all that was.

In a generation of an accelerated model the copy would take longer than attention does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

LEAST_ROOM = 64  # positions reserved ahead, at least
ROOM = 8  # and one for so many that are held


def grow_in_place(cache: Any) -> None:
    """Let the layers of a DynamicCache that hold all positions grow in place; any other cache stays as it is."""
    from transformers import DynamicCache, EncoderDecoderCache
    from transformers.cache_utils import DynamicLayer

    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    if not isinstance(cache, DynamicCache):
        return
    if getattr(cache, "layer_class_to_replicate", None) is DynamicLayer:  # for layers that are still to come
        cache.layer_class_to_replicate = _growing()
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = _growing()


@lru_cache(maxsize=1)
def _growing() -> type:
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):
        """A DynamicLayer whose keys and values lie in memory reserved ahead."""

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            """All keys and values, these last; in gradient mode by copying, for autograd may need what was before."""
            if torch.is_grad_enabled() or torch.compiler.is_compiling():
                return super().update(key_states, value_states, *args, **kwargs)
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            memory = getattr(self, "_memory", (None, None))
            key_memory, self.keys = _extended(memory[0], self.keys, key_states)
            value_memory, self.values = _extended(memory[1], self.values, value_states)
            self._memory = key_memory, value_memory
            return self.keys, self.values

    return GrowingLayer


def _extended(memory: Tensor | None, held: Tensor | None, new: Tensor) -> tuple[Tensor, Tensor]:
    """The memory and what is held in it, [batch, heads, length, dim], with `new` after the last."""
    length = 0 if held is None or held.ndim < 3 else held.shape[-2]  # the library's empty tensor has one dimension
    end = length + new.shape[-2]
    if memory is None or held is None or not _lies_in(memory, held) or memory.shape[-2] < end or not _can_write(memory):
        memory = new.new_empty(*new.shape[:-2], end + max(LEAST_ROOM, end // ROOM), new.shape[-1])
        if held is not None and length:
            memory[..., :length, :] = held
    memory[..., length:end, :] = new
    return memory, memory[..., :end, :]


def _lies_in(memory: Tensor, held: Tensor) -> bool:
    """Whether `held` is the beginning of `memory`: reordered, repeated or reset it is another tensor."""
    return (
        held.ndim == memory.ndim
        and held.data_ptr() == memory.data_ptr()
        and held.stride() == memory.stride()
        and held.shape[:-2] == memory.shape[:-2]
    )


def _can_write(memory: Tensor) -> bool:
    """Memory made in inference mode cannot be written outside of it."""
    return torch.is_inference_mode_enabled() or not memory.is_inference()

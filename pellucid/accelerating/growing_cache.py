"""The key-value cache of transformers, growing in place: a step writes what it adds, instead of copying all that was.

In a generation of an accelerated model the copy would take longer than attention does. What the cache has given out
never changes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pellucid.nn.room import Room, grown

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


def __getattr__(name: str) -> type:
    """GrowingLayer, where pickle asks for it: transformers is imported only then."""
    if name == "GrowingLayer":
        return _growing()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@lru_cache(maxsize=1)
def _growing() -> type:
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):
        """A DynamicLayer whose keys and values lie in memory reserved ahead."""

        _rooms: tuple[Room | None, Room | None] = (None, None)

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            """All keys and values, these last; in gradient mode by copying, for autograd may need what was before."""
            if torch.is_grad_enabled() or torch.compiler.is_compiling():
                return super().update(key_states, value_states, *args, **kwargs)
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            key_room, keys = _extended(self._rooms[0], self.keys, key_states)
            value_room, values = _extended(self._rooms[1], self.values, value_states)
            self.keys, self.values, self._rooms = keys, values, (key_room, value_room)
            return keys, values

        def reset(self) -> None:
            """Forget all positions; some versions of the library write zeros over them."""
            self.__dict__ |= self.__getstate__()
            super().reset()

        def __getstate__(self) -> dict[str, Any]:
            """What is copied and pickled: keys and values of their own, without what is reserved behind them."""
            own = {name: value for name, value in self.__dict__.items() if name != "_rooms"}
            held = {name: own[name] for name in ("keys", "values") if isinstance(own.get(name), Tensor)}
            return own | {name: tensor.clone() for name, tensor in held.items()}

    GrowingLayer.__qualname__ = GrowingLayer.__name__  # it is found by the module's __getattr__
    return GrowingLayer


def _extended(room: Room | None, held: Tensor | None, new: Tensor) -> tuple[Room, Tensor]:
    """What is held, [batch, heads, length, dim], with `new` after the last, and the room in which it lies."""
    if held is not None and held.ndim < 3:  # the library's empty tensor has one dimension
        held = None
    end = new.shape[-2] + (0 if held is None else held.shape[-2])
    return grown(room, held, new, end + max(LEAST_ROOM, end // ROOM))

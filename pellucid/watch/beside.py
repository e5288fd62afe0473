"""What is known of a call beside its readouts, and what a summary needs: the sink's share, and the keys allowed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.softmax import finite
from pellucid.watch.allowed import Allowed, Field
from pellucid.watch.call import Call
from pellucid.watch.record import Layer


class Beside:
    """Adds `sink_mass`, [batch, heads, q_len], where there is a sink, and `allowed`, where there is an entropy.

    The layers of one pass mostly share a mask, whose keys are counted once.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[Any, ...], Allowed] | None = None

    def add(self, layer: Layer, call: Call, start: int, heads: Tensor | None) -> None:
        """Add them to a layer that holds the readings of this one call.

        Args:
            layer: what the call makes.
            call: the call.
            start: position of its first query.
            heads: numbers of the heads that the layer has, all if None.

        """
        if call.sinks is not None:
            sinks = call.sinks.detach() if heads is None else call.sinks.detach()[heads]
            lse = layer.readings["lse"]
            layer.readings = layer.readings | {"sink_mass": torch.exp(sinks.to(lse)[:, None] - finite(lse))}
        if "entropy" in layer.readings:
            allowed = self._allowed(layer, call, start)
            own = heads is not None and allowed.keys.shape[1] > 1
            chosen = Allowed(*(count[:, heads] for count in allowed)) if own else allowed
            layer.readings = layer.readings | {"allowed": chosen}

    def _allowed(self, layer: Layer, call: Call, start: int) -> Allowed:
        _, mask = call.functions_by_position(start)
        sizes = (call.batch, call.heads, start, call.q_len, call.k_start, call.k_len)
        known = (mask, call.padded_keys, *sizes)
        if self._last is None or not _same(self._last[0], known):
            queries = range(start, start + call.q_len)
            keys = range(call.k_start, call.k_start + call.k_len)
            field = Field(call.batch, call.heads, queries, keys, layer.padding.keys, mask)
            self._last = known, field.count()
        return self._last[1]


def _same(last: tuple[Any, ...], known: tuple[Any, ...]) -> bool:
    return last[0] is known[0] and last[1] is known[1] and last[2:] == known[2:]

"""What is known of a call beside its readouts, and a summary needs: the sink's share, keys allowed, repeated tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from pellucid import reference
from pellucid.capture.calls.call import Call
from pellucid.engines import rounded
from pellucid.record.layer import Layer
from pellucid.record.studies.allowed import Allowed, Field
from pellucid.record.studies.repeats import Repeats, repeats
from pellucid.softmax import finite

T = TypeVar("T")


class _Last(Generic[T]):
    """The last result, given again for the same question."""

    def __init__(self) -> None:
        self._known: tuple[Any, tuple[Any, ...], T] | None = None

    def of(self, question: tuple[Any, ...], objects: tuple[Any, ...], answer: Callable[[], T]) -> T:
        """The answer to a question about objects, computed anew unless they are the very objects of the last time."""
        known = self._known
        if known is None or known[0] != question or any(a is not b for a, b in zip(known[1], objects, strict=True)):
            self._known = known = question, objects, answer()
        return known[2]


class Beside:
    """Adds `sink_mass`, [batch, heads, q_len], where there is a sink, `allowed` to an entropy, `repeats` to token ids.

    The layers of one pass mostly share mask and tokens, which are counted once.
    """

    def __init__(self) -> None:
        self._allowed: _Last[Allowed] = _Last()
        self._repeats: _Last[Repeats] = _Last()

    def add(self, layer: Layer, call: Call, start: int, heads: Tensor | None, token_ids: Tensor | None) -> None:
        """Add them to a layer that holds the readings of this one call.

        Args:
            layer: what the call makes.
            call: the call.
            start: position of its first query.
            heads: numbers of the heads that the layer has, all if None.
            token_ids: of the positions up to its last key, int64 [batch, length], where they are known.

        """
        found: dict[str, Any] = {}
        if call.sinks is not None:
            found["sink_mass"] = _sink_mass(call, layer.readings["lse"].detach(), heads)
        if "entropy" in layer.readings:
            allowed = self._count(layer, call, start)
            own = heads is not None and allowed.keys.shape[1] > 1
            found["allowed"] = Allowed(*(count[:, heads] for count in allowed)) if own else allowed
        if token_ids is not None:
            found["repeats"] = self._find(layer, call, start, token_ids)
        layer.readings = layer.readings | found

    def _count(self, layer: Layer, call: Call, start: int) -> Allowed:
        _, mask = call.functions_by_position(start)
        queries, keys = range(start, start + call.q_len), range(call.k_start, call.k_start + call.k_len)
        field = Field(call.batch, call.heads, queries, keys, layer.padding.keys, mask)
        sizes = (call.batch, call.heads, queries, keys)
        return self._allowed.of(sizes, (mask, call.padded_keys), field.count)

    def _find(self, layer: Layer, call: Call, start: int, token_ids: Tensor) -> Repeats:
        queries, causal = range(start, start + call.q_len), layer.role == "causal self"
        padding = layer.padding.keys
        known = None if padding is None else padding[:, : token_ids.shape[1]]
        return self._repeats.of(
            (queries, causal), (token_ids, call.padded_keys), lambda: repeats(token_ids, known, causal, queries)
        )


def _sink_mass(call: Call, lse: Tensor, heads: Tensor | None) -> Tensor:
    """The weight that the sink takes in each row, [batch, heads, q_len]."""
    assert call.sinks is not None
    problem, device = call.problem, lse.device
    heads = torch.arange(call.heads, device=device) if heads is None else heads.to(device)
    mass = torch.exp(call.sinks.detach()[heads].to(lse)[:, None] - finite(lse))
    every = torch.arange(call.k_len, device=device)

    def again(rows: Tensor) -> Tensor:
        """What the keys' weights leave."""
        return 1.0 - reference.weights(problem, rows, every, heads).sum(-1, keepdim=True)

    with torch.no_grad(), problem.own_precision():
        return rounded.replaced(mass[..., None], lse, call.k_len, again)[..., 0]

"""What every engine takes, the description of one attention call, and what it gives.

Everything is checked and decided before a Problem exists; an engine only computes. Its tensors always have a heads
dimension, their leading dimensions broadcast against one another and are never expanded. The face's variants
(is_causal, attn_mask, windows, biases) are all in the two expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pellucid import dropout
from pellucid.language import SCORE, TRUE, Expression, evaluate, walk
from pellucid.language.shift import with_tensors
from pellucid.tensors import storage
from pellucid.tensors.once import once
from pellucid.tensors.transformed import is_transformed

if TYPE_CHECKING:
    from pellucid.readouts.base import Readout

Selection = slice | Tensor  # positions along one dimension
ALL = slice(None)


@dataclass(frozen=True)
class Problem:
    """One call of attention, wholly described."""

    query: Tensor  # [*batch, heads or 1, q_len, head_dim]
    key: Tensor  # [*batch, kv_heads, k_len, head_dim]
    value: Tensor  # [*batch, kv_heads, k_len, value_dim]
    batch: tuple[int, ...]
    heads: int
    scale: float
    score: Expression = SCORE
    mask: Expression = TRUE
    sinks: Tensor | None = None  # [heads]
    dropout_p: float = 0.0
    dropout_seed: int | Tensor = 0
    readouts: tuple[Readout, ...] = ()

    @property
    def q_len(self) -> int:
        """Number of queries."""
        return self.query.shape[-2]

    @property
    def k_len(self) -> int:
        """Number of keys."""
        return self.key.shape[-2]

    @property
    def rows(self) -> tuple[int, ...]:
        """Shape of one number per query: (*batch, heads, q_len)."""
        return (*self.batch, self.heads, self.q_len)

    @once
    def dtype(self) -> torch.dtype:
        """The precision to compute in: float64 for float64, else float32."""
        return torch.float64 if self.query.dtype == torch.float64 else torch.float32

    @once
    def loads(self) -> tuple[Expression, ...]:
        """Every load of a captured tensor, attn_mask among them, in the score, the mask and the readouts."""
        roots = (self.score, self.mask, *(e for r in self.readouts for e in r.expressions))
        return tuple(node for node in walk(*roots) if node.op == "load")

    @once
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that is read: query, key, value, sinks if any, what the functions captured."""
        own = (self.query, self.key, self.value, *((self.sinks,) if self.sinks is not None else ()))
        return (*own, *(load.value for load in self.loads))

    @once
    def transformed(self) -> bool:
        """Whether torch.func or forward-mode differentiation looks through any of `tensors`, or dropout's seed."""
        seed = (self.dropout_seed,) if isinstance(self.dropout_seed, Tensor) else ()
        return any(map(is_transformed, (*self.tensors, *seed)))

    @once
    def loaded(self) -> tuple[Tensor, ...]:
        """The captured tensors, each once."""
        return tuple({id(load.value): load.value for load in self.loads}.values())

    @once
    def captured(self) -> tuple[Tensor, ...]:
        """The captured tensors that need a gradient."""
        return tuple(tensor for tensor in self.loaded if tensor.requires_grad)

    @once
    def differentiable(self) -> tuple[Tensor, ...]:
        """Every tensor that a gradient may flow to: query, key, value, sinks if any, captured tensors."""
        return (self.query, self.key, self.value, *((self.sinks,) if self.sinks is not None else ()), *self.captured)

    @once
    def _place(self) -> dict[str, Tensor]:
        device = self.query.device
        batches = torch.arange(torch.Size(self.batch).numel(), device=device)
        lengths = {"h": self.heads, "q": self.q_len, "k": self.k_len}
        return {"b": batches.view(*self.batch, 1, 1, 1)} | {
            name: torch.arange(length, device=device) for name, length in lengths.items()
        }

    def place(self, queries: Selection = ALL, keys: Selection = ALL, heads: Selection = ALL) -> dict[str, Tensor]:
        """The indices b, h, q and k of a part of the matrix, shaped to broadcast: b [*batch,1,1,1] ... k [keys]."""
        place = self._place
        return {
            "b": place["b"],
            "h": place["h"][heads][:, None, None],
            "q": place["q"][queries][:, None],
            "k": place["k"][keys],
        }

    def matrix(self, queries: Selection = ALL, keys: Selection = ALL, heads: Selection = ALL) -> Tensor:
        """Query @ key.T * scale for a part of the matrix, [*batch, heads, queries, keys], in `dtype`."""
        query, key = self.query_of_heads(queries, heads), self.key_of_heads(keys, heads)
        return (query @ key.mT * self.scale).expand(*self.batch, len(self._place["h"][heads]), -1, -1)

    def query_of_heads(self, queries: Selection = ALL, heads: Selection = ALL) -> Tensor:
        """The chosen queries in `dtype`, [..., heads or 1, queries, head_dim]."""
        return _of_heads(self.query[..., queries, :], self.heads, heads).to(self.dtype)

    def key_of_heads(self, keys: Selection = ALL, heads: Selection = ALL) -> Tensor:
        """The chosen keys in `dtype`, grouped heads repeated, [..., heads or 1, keys, head_dim]."""
        return _of_heads(self.key[..., keys, :], self.heads, heads).to(self.dtype)

    def value_of_heads(self, keys: Selection = ALL, heads: Selection = ALL) -> Tensor:
        """The chosen keys' values in `dtype`, grouped heads repeated, [..., heads or 1, keys, value_dim]."""
        return _of_heads(self.value[..., keys, :], self.heads, heads).to(self.dtype)

    def check_memory(self) -> None:
        """Raise ValueError, naming the argument, if the storage of a tensor was cut or emptied."""
        for name, tensor in (("query", self.query), ("key", self.key), ("value", self.value), ("sinks", self.sinks)):
            if tensor is not None:
                storage.check(name, tensor)
        for load in self.loads:
            storage.check("attn_mask or a captured tensor", load.value)

    def own_precision(self) -> AbstractContextManager[Any]:
        """A context inside which torch.autocast does not change the precision of what is computed."""
        kind = self.query.device.type
        return torch.autocast(kind, enabled=False) if is_autocast(kind) else nullcontext()

    def dropout(self, place: dict[str, Tensor]) -> Tensor:
        """What dropout multiplies the weights at `place` by: 0, or 1 / (1 - dropout_p)."""
        return self.kept(place).to(self.dtype) * dropout.scale(self.dropout_p)

    def kept(self, place: dict[str, Tensor]) -> Tensor:
        """Whether dropout keeps the weights at `place`."""
        return dropout.kept(self.dropout_seed, self.dropout_p, place, self.heads, self.q_len, self.k_len)

    def having(self, query: Tensor, key: Tensor, value: Tensor) -> Problem:
        """The same call of these tensors; itself, where they are its own."""
        same = query is self.query and key is self.key and value is self.value
        return self if same else replace(self, query=query, key=key, value=value)

    def alone(self) -> Problem:
        """The same call without readouts and sinks."""
        return self if not self.readouts and self.sinks is None else replace(self, readouts=(), sinks=None)

    def reading(self, change: Callable[[Any], Any]) -> Problem:
        """The same call, its functions reading what `change` makes of each tensor that they captured."""
        if not self.loads:
            return self
        score, mask = (with_tensors(function, change) for function in (self.score, self.mask))
        return replace(self, score=score, mask=mask, readouts=tuple(own.reading(change) for own in self.readouts))

    def scores(self, queries: Selection = ALL, keys: Selection = ALL, heads: Selection = ALL) -> Tensor:
        """What softmax is taken of, for a part of the matrix: score_mod applied, -inf where the mask forbids."""
        raw = self.matrix(queries, keys, heads)
        return self.modify(raw, self.place(queries, keys, heads))

    def modify(self, raw: Tensor, place: dict[str, Tensor], full: bool = False) -> Tensor:
        """`raw` scores after score_mod and, unless the part is known to be full, mask_mod."""
        mask = TRUE if full else self.mask
        if mask is TRUE and self.score is SCORE:
            return raw
        scores, allowed = evaluate(self.score, mask, inputs={"score": raw, **place}, dtype=self.dtype)
        return scores.expand(raw.shape) if mask is TRUE else scores.masked_fill(~allowed, -torch.inf).expand(raw.shape)


class Result(NamedTuple):
    """The output of one problem, and what was read on the way."""

    output: Tensor  # [*batch, heads, q_len, value_dim]
    lse: Tensor  # [*batch, heads, q_len]
    readings: dict[str, Any]  # a readout's name: its result
    again: Callable[[tuple[int, ...]], Any] | None = None  # gives an engine's Repeat, from the shape of its outputs


def is_autocast(device_type: str) -> bool:
    """Whether torch.autocast is on for a type of device."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def _of_heads(tensor: Tensor, heads: int, chosen: Selection) -> Tensor:
    """What the chosen query heads see of a [..., kv_heads, length, dim] tensor; a single head stays one, to broadcast.

    Grouped heads are repeated in memory, so call it on what one tile needs.
    """
    kv_heads = tensor.shape[-3]
    if kv_heads == 1:
        return tensor
    if kv_heads == heads:
        return tensor if chosen is ALL else tensor[..., chosen, :, :]
    own = torch.arange(heads, device=tensor.device)[chosen] // (heads // kv_heads)
    return tensor.index_select(-3, own)

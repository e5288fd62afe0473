"""A call of attention as a contender gets it: tensors, what may be looked at, what is to be told of the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.readouts import Readout
from tests.cases import Call, normal

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """One call. `dense_mask` is `mask_mod` as a bool tensor [q_len, k_len], for contenders that take no function.

    Where it `trains`, it is a step of a training: the call and the gradients of its tensors (a float mask's too), given
    those of the output and of the readouts. `learned` is what functions captured that has a gradient as well.
    """

    call: Call
    mask_mod: Callable[..., Any] | None = None
    score_mod: Callable[..., Any] | None = None
    dense_mask: Tensor | None = None
    readouts: tuple[Readout, ...] = ()
    trains: bool = False
    learned: tuple[Tensor, ...] = ()  # [heads, ...]
    dropout_p: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the tensors."""
        return self.call.query.dtype

    @property
    def is_plain(self) -> bool:
        """Whether it is softmax(query @ key.T) @ value of 4-D tensors of one size and nothing else but `is_causal`."""
        call = self.call
        same = call.query.shape[-1] == call.value.shape[-1] and call.query.ndim == 4
        more = self.mask_mod or self.score_mod or self.readouts or self.trains
        return same and call.attn_mask is None and not more

    @property
    def output_shape(self) -> tuple[int, ...]:
        """[..., heads, q_len, value_dim]."""
        return (*self.call.query.shape[:-1], self.call.value.shape[-1])


def unmasked(batch: int, heads: int, length: int, dim: int, dtype: torch.dtype, *, is_causal: bool = False) -> Task:
    """Self-attention of unit-normal tensors [batch, heads, length, dim]."""
    shape = (batch, heads, length, dim)
    return Task(Call(*tensors(shape, shape, shape, dtype=dtype), is_causal=is_causal))


def tensors(query: Shape, key: Shape, value: Shape, *, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Unit-normal query, key and value of these shapes, the same ones every time."""
    return normal(*query, dtype=dtype), normal(*key, dtype=dtype, seed=1), normal(*value, dtype=dtype, seed=2)


def with_groups_as_queries(call: Call) -> Call:
    """One query a head, as the same call without groups: the heads that share a key head are its queries.

    This is the best that can be done for a contender that knows no groups; others would repeat every key.
    """
    batch, heads, one, dim = call.query.shape
    kv_heads = call.key.shape[1]
    if one != 1 or call.is_causal or call.attn_mask is not None:
        raise ValueError(f"call: one query a head and no mask are needed, got {one} queries")
    return replace(call, query=call.query.view(batch, kv_heads, heads // kv_heads, dim), enable_gqa=False)

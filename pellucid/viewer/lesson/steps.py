"""Attention on small tensors, every step by the textbook's formula and again by the library.

Only the numbers are here; `explain.py` words and prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

import pellucid
from pellucid.nn import CrossAttention, SelfAttention
from pellucid.nn.heads import split_heads
from pellucid.nn.rotary import Rotary


class Projection(NamedTuple):
    """What makes queries, keys or values of tokens: tokens @ weight + bias."""

    weight: Tensor  # [width of a token, head_dim]
    bias: Tensor | None = None  # [head_dim]


@dataclass(frozen=True)
class Lesson:
    """One head of self-attention, or of cross-attention where `context` is a second sequence."""

    tokens: Tensor  # [q_len, embed_dim]
    context: Tensor | None  # [k_len, context_dim]; None: the keys come from the tokens too
    query: Tensor  # [q_len, head_dim]
    key: Tensor  # [k_len, head_dim]
    value: Tensor  # [k_len, value_dim]
    query_labels: tuple[str, ...]
    key_labels: tuple[str, ...]
    projections: tuple[Projection, Projection, Projection]  # of queries, keys and values
    rotary: Rotary | None = None  # turns queries and keys by their place

    @cached_property
    def scores(self) -> Tensor:
        """How well each query matches each key: [q_len, k_len]."""
        return self.query @ self.key.T / self.query.shape[-1] ** 0.5

    @property
    def weights(self) -> Tensor:
        """The shares of each query's attention, as `pellucid.observe` tells them: [q_len, k_len]."""
        return self._observed[1].weights()

    @property
    def attended(self) -> Tensor:
        """What each query gathered, as `pellucid.observe` computes it: [q_len, value_dim]."""
        return self._observed[0]

    def agreement(self) -> dict[str, float]:
        """The largest difference between a formula and the library's own number, by what was compared."""
        output, observation = self._observed
        weights = torch.softmax(self.scores, dim=-1)
        compared = {
            "weights @ V  and  pellucid.attention(Q, K, V)": (
                weights @ self.value,
                pellucid.attention(self.query, self.key, self.value),
            ),
            "weights @ V  and  the output of pellucid.observe": (weights @ self.value, output),
            "softmax(scores)  and  observation.weights()": (weights, observation.weights()),
            "log(sum(exp(scores)))  and  observation.lse": (torch.logsumexp(self.scores, -1), observation.lse),
            "-sum(weights * log(weights))  and  observation.entropy": (
                torch.special.entr(weights).sum(-1),
                observation.entropy,
            ),
        }
        return {name: float((formula - library).abs().max()) for name, (formula, library) in compared.items()}

    @cached_property
    def _observed(self) -> tuple[Tensor, pellucid.Observation]:
        return pellucid.observe(self.query, self.key, self.value)


def notebook_lessons(
    tokens: int, dim: int, context: int, seed: int, scale: float | None = None
) -> tuple[Lesson, Lesson]:
    """Self- and cross-attention of random tokens, each number between 0 and 1 as in the textbook's first example.

    The tokens and the projections of the first lesson come first from the generator, so they are those that
    `torch.manual_seed(seed)` and the same calls of `torch.rand` give.

    Args:
        tokens: length of the sequence that attends.
        dim: width of a token, of a query, a key and a value.
        context: length of the second sequence.
        seed: of the random numbers.
        scale: where given, all numbers are normally distributed around 0 in place of those between 0 and 1, and those
            of the projections of queries and keys multiplied by it: the larger, the sharper the softmax.

    """
    generator = torch.Generator().manual_seed(seed)

    def rand(rows: int) -> Tensor:
        drawn = torch.rand if scale is None else torch.randn
        return drawn(rows, dim, generator=generator, device="cpu")

    def projections() -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = rand(dim), rand(dim), rand(dim)
        return (query, key, value) if scale is None else (query * scale, key * scale, value)

    x = rand(tokens)
    own = _random_lesson(x, None, projections())
    other = _random_lesson(x, rand(context), projections())
    return own, other


def _random_lesson(x: Tensor, context: Tensor | None, projections: tuple[Tensor, Tensor, Tensor]) -> Lesson:
    query, key, value = projections
    source = x if context is None else context
    made = Projection(query), Projection(key), Projection(value)
    return Lesson(x, context, x @ query, source @ key, source @ value, _numbers(x), _numbers(source), made)


def _numbers(x: Tensor) -> tuple[str, ...]:
    return tuple(str(index) for index in range(len(x)))


@torch.inference_mode()
def layer_lesson(
    layer: SelfAttention | CrossAttention,
    inputs: Sequence[Tensor],
    head: int,
    query_labels: Sequence[str],
    key_labels: Sequence[str],
) -> Lesson:
    """One head of a trained layer on its own inputs: queries, keys and values as the layer projects them.

    Args:
        layer: not causal, without query and key norms.
        inputs: what the layer was called with, [1, length, width]: its tokens, and for cross-attention the context.
        head: which one.
        query_labels: a name for each token.
        key_labels: a name for each token of the sequence that keys come from.

    Raises:
        ValueError: the layer has no such head.
    """
    if not 0 <= head < layer.num_heads:
        raise ValueError(f"head: the layer has 0-{layer.num_heads - 1}, got {head}")
    x, source = inputs[0], inputs[-1]
    query = split_heads(layer.query_projection(x), layer.num_heads, layer.head_dim)
    key = split_heads(layer.key_projection(source), layer.kv_heads, layer.head_dim)
    value = split_heads(layer.value_projection(source), layer.kv_heads, layer.head_dim)
    rotary = layer.rotary if isinstance(layer, SelfAttention) else None
    if rotary is not None:
        query, key = rotary(query), rotary(key)
    shared = head * layer.kv_heads // layer.num_heads
    return Lesson(
        x[0],
        source[0] if isinstance(layer, CrossAttention) else None,
        query[0, head],
        key[0, shared],
        value[0, shared],
        tuple(query_labels),
        tuple(key_labels),
        (
            _projection(layer.query_projection, head, layer.head_dim),
            _projection(layer.key_projection, shared, layer.head_dim),
            _projection(layer.value_projection, shared, layer.head_dim),
        ),
        rotary,
    )


def _projection(linear: nn.Linear, head: int, head_dim: int) -> Projection:
    """A head's part of what projects for all of them."""
    own = slice(head * head_dim, (head + 1) * head_dim)
    return Projection(linear.weight[own].T, None if linear.bias is None else linear.bias[own])

"""The named score functions, for `score_mod` here and in FlexAttention: (score, b, h, q_idx, kv_idx) -> score."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

ScoreFunction = Callable[[Any, Any, Any, Any, Any], Any]


def alibi(slopes: Tensor) -> ScoreFunction:
    """Attention with linear biases (Press et al. 2022): `score - slopes[h] * |q_idx - kv_idx|`.

    Args:
        slopes: one a head, a float tensor [heads]; `alibi_slopes(heads)` gives the paper's.

    Raises:
        ValueError: `slopes` is no float tensor of one dimension.

    """
    _check_float("slopes", slopes, 1)

    def biased(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score - slopes[h] * (q_idx - kv_idx).abs()

    return _named(biased, "alibi")


def alibi_slopes(heads: int, device: torch.device | str | None = None) -> Tensor:
    """The slopes of the ALiBi paper, [heads]: 2^(-8 i / heads), i = 1 … heads, for a power of two of heads.

    For another number: those of the next smaller power of two, then every second one of the next larger. They are on
    `device`; on torch's default, if None. Raises ValueError for less than one head.
    """
    if heads < 1:
        raise ValueError(f"heads: at least 1 is needed, got {heads}")
    power = 1 << (heads.bit_length() - 1)
    steps = (torch.arange(1, n + 1, device=device) * (-8.0 / n) for n in (power, 2 * power))
    exact, finer = map(torch.exp2, steps)
    return torch.cat([exact, finer[::2][: heads - power]])


def softcap(cap: float) -> ScoreFunction:
    """`cap * tanh(score / cap)`: keeps every score within ±cap (Gemma 2). Raises ValueError unless cap > 0."""
    if not 0 < cap < math.inf:
        raise ValueError(f"cap: a positive finite number is needed, got {cap}")

    def capped(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return cap * torch.tanh(score / cap)

    return _named(capped, "softcap")


def relative_bias(
    table: Tensor, *, bidirectional: bool = True, max_distance: int = 128, offset: int = 0
) -> ScoreFunction:
    """T5's bucketed relative position bias (Raffel et al. 2020): `score + table[bucket(kv_idx - q_idx), h]`.

    Near distances have a bucket each, far ones share buckets that grow with the logarithm of the distance.

    Args:
        table: the learned biases, a float tensor [buckets, heads]; gradients flow to it.
        bidirectional: whether keys after the query have their own buckets (encoder) or all share bucket 0.
        max_distance: from where on all distances share the last bucket.
        offset: added to q_idx, as in `masks.causal`.

    Raises:
        ValueError: `table` is no float tensor of two dimensions, or has too few buckets, or `max_distance` is not
            beyond the distances that have a bucket each.

    """
    _check_float("table", table, 2)
    buckets = table.shape[0] // 2 if bidirectional else table.shape[0]
    exact = buckets // 2
    if exact < 1:
        raise ValueError(f"table: at least {4 if bidirectional else 2} buckets are needed, got {table.shape[0]}")
    if max_distance <= exact:
        raise ValueError(f"max_distance: more than {exact}, half the buckets, is needed, got {max_distance}")
    bucket_of = _distance_buckets(buckets, exact, max_distance).to(table.device)

    def biased(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        distance = kv_idx - (q_idx + offset)
        if bidirectional:
            bucket = bucket_of[distance.abs().clamp(max=max_distance)] + torch.where(distance > 0, buckets, 0)
        else:
            bucket = bucket_of[torch.clamp(-distance, 0, max_distance)]
        return score + table[bucket, h]

    return _named(biased, "relative_bias")


def chain(*functions: ScoreFunction) -> ScoreFunction:
    """One function after another: `chain(f, g)` gives `g(f(score, ...), ...)`."""

    def chained(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return reduce(lambda value, function: function(value, b, h, q_idx, kv_idx), functions, score)

    return _named(chained, "_then_".join(getattr(f, "__name__", "score") for f in functions) or "chain")


def _distance_buckets(buckets: int, exact: int, max_distance: int) -> Tensor:
    """The bucket of each distance from 0 to max_distance, computed in float32 as T5 does."""
    distance = torch.arange(max_distance + 1, device="cpu")
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (buckets - exact)
    far = (exact + growth.to(torch.long)).clamp(max=buckets - 1)
    return torch.where(distance < exact, distance, far)


def _named(function: ScoreFunction, name: str) -> ScoreFunction:
    function.__name__ = name
    return function


def _check_float(name: str, tensor: Tensor, rank: int) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim != rank:
        got = f"{tensor.dtype} of shape {list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name}: a float tensor of {rank} dimensions is needed, got {got}")

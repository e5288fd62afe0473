"""ONNX's Attention operator (opset 23 to 25) on pellucid's face: what the operator's attributes and inputs mean here.

Its semantics are named masks and score functions: offset-aware causal, windows, padded keys, softcap before the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pellucid
from pellucid import masks, scores

RAW, CAPPED, BIASED, SOFTMAXED = range(4)  # qk_matmul_output_mode


@dataclass(frozen=True)
class Attributes:
    """The operator's attributes, with its defaults. softmax_precision asks for no less than what we always do."""

    is_causal: int = 0
    scale: float | None = None
    softcap: float = 0.0
    q_num_heads: int | None = None
    kv_num_heads: int | None = None
    left_window_size: int = -1
    right_window_size: int = -1
    qk_matmul_output_mode: int = RAW
    softmax_precision: int | None = None


@dataclass(frozen=True)
class Outputs:
    """The operator's outputs."""

    Y: Tensor
    present_key: Tensor
    present_value: Tensor
    qk_matmul_output: Tensor


def attention(
    attributes: Attributes,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
) -> Outputs:
    """The operator: [batch, heads, length, dim] or, with q_num_heads and kv_num_heads, [batch, length, heads * dim]."""
    packed = query.ndim == 3
    query = split_heads(query, attributes.q_num_heads)
    key, value = (split_heads(tensor, attributes.kv_num_heads) for tensor in (key, value))
    past = 0 if past_key is None else past_key.shape[-2]
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], -2), torch.cat([past_value, value], -2)

    score_mod = scores.softcap(attributes.softcap) if attributes.softcap else None
    call: dict[str, Any] = {"scale": attributes.scale, "enable_gqa": True, "score_mod": score_mod}
    masked: dict[str, Any] = call | {
        "attn_mask": padded(attn_mask, key.shape[-2]),
        "mask_mod": mask_of(attributes, past, query.shape[-2], nonpad_kv_seqlen),
    }
    output, seen = pellucid.observe(query, key, value, **masked)
    if packed:
        output = output.transpose(1, 2).flatten(2)
    if attributes.qk_matmul_output_mode == SOFTMAXED:
        matrix = seen.weights()
    else:
        stages: dict[int, dict[str, Any]] = {RAW: call | {"score_mod": None}, CAPPED: call, BIASED: masked}
        matrix = score_matrix(query, key, stages[attributes.qk_matmul_output_mode])
    return Outputs(output, key, value, matrix.to(query.dtype))


def split_heads(tensor: Tensor, heads: int | None) -> Tensor:
    """[batch, length, heads * dim] as [batch, heads, length, dim]; 4-D tensors as they are."""
    return tensor if tensor.ndim == 4 or heads is None else tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def padded(attn_mask: Tensor | None, k_len: int) -> Tensor | None:
    """The mask with as many keys as there are: those it lacks are not allowed."""
    if attn_mask is None:
        return None
    attn_mask = attn_mask if attn_mask.ndim > 1 else attn_mask[None]
    nothing = False if attn_mask.dtype == torch.bool else -torch.inf
    return torch.nn.functional.pad(attn_mask, (0, k_len - attn_mask.shape[-1]), value=nothing)


def mask_of(attributes: Attributes, past: int, q_len: int, lengths: Tensor | None) -> Callable[..., Any] | None:
    """is_causal, the window and the padding as one mask; None where everything is allowed."""
    left, right = (None if size < 0 else size for size in (attributes.left_window_size, attributes.right_window_size))
    parts = []
    if lengths is not None:
        parts.append(masks.key_lengths(lengths))
    if attributes.is_causal:
        parts.append(aligned(masks.causal(), past, q_len, lengths))
    if left is not None or right is not None:
        parts.append(aligned(masks.sliding_window(left, right), past, q_len, lengths))
    whole = parts[0] if parts else None
    for part in parts[1:]:
        whole = whole & part
    return whole


def aligned(mask: masks.Mask, past: int, q_len: int, lengths: Tensor | None) -> masks.Mask:
    """`mask` with the queries standing after the cached keys: `past` of them, or in batch b `lengths[b] - q_len`."""
    if lengths is None:
        return masks.Mask(lambda b, h, q, k: mask(b, h, q + past, k), f"{mask.__name__}_after_past")
    offsets = lengths - q_len
    return masks.Mask(lambda b, h, q, k: mask(b, h, q + offsets[b], k), f"{mask.__name__}_after_cache")


def score_matrix(query: Tensor, key: Tensor, call: dict[str, Any]) -> Tensor:
    """The scores themselves: an observation gives weights and lse, and a score is log(weight) + lse."""
    no_value = key.new_zeros((*key.shape[:-1], 0))
    _, seen = pellucid.observe(query, key, no_value, **call, readouts=[pellucid.LogSumExp()])
    return seen.weights().log() + seen.lse[..., None]

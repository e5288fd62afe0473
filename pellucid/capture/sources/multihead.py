"""torch's multi-head attention, the function behind nn.MultiheadAttention and nn.Transformer, as a Call."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import multi_head_attention_forward as torch_multi_head

from pellucid.capture.attending import attend, beside, left_to_torch
from pellucid.capture.calls.call import Call
from pellucid.capture.sources.base import Source
from pellucid.language import INPUTS, SCORE, TRUE, Expression, constant, load, operation
from pellucid.tensors.transformed import is_transformed


class _Heads(NamedTuple):
    """Projected into heads."""

    query: Tensor  # [batch, heads, q_len, head_dim]
    key: Tensor  # [batch, heads, k_len, head_dim]
    value: Tensor


class _Asked(NamedTuple):
    """What torch.nn.functional.multi_head_attention_forward is called with."""

    query: Tensor
    key: Tensor
    value: Tensor
    embed_dim_to_check: int
    num_heads: int
    in_proj_weight: Tensor | None
    in_proj_bias: Tensor | None
    bias_k: Tensor | None
    bias_v: Tensor | None
    add_zero_attn: bool
    dropout_p: float
    out_proj_weight: Tensor
    out_proj_bias: Tensor | None
    training: bool = True
    key_padding_mask: Tensor | None = None
    need_weights: bool = True
    attn_mask: Tensor | None = None
    use_separate_proj_weight: bool = False
    q_proj_weight: Tensor | None = None
    k_proj_weight: Tensor | None = None
    v_proj_weight: Tensor | None = None
    static_k: Tensor | None = None
    static_v: Tensor | None = None
    average_attn_weights: bool = True
    is_causal: bool = False

    @property
    def drops(self) -> bool:
        """Whether weights are dropped."""
        return self.training and self.dropout_p > 0

    @property
    def is_trained(self) -> bool:
        """Whether a gradient may be wanted of what is given back."""
        tensors = (value for value in self if isinstance(value, Tensor))
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def multi_head_attention_forward(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """What torch.nn.functional.multi_head_attention_forward gives, seen by whoever watches `module`.

    Where no key is allowed the output is 0, where torch gives NaN. Weights that have been dropped or carry a gradient
    are torch's own.
    """
    asked = _Asked(*args, **kwargs)
    kept_weights = asked.need_weights and (asked.drops or asked.is_trained)
    if kept_weights or left_to_torch(module, asked.drops, *asked[:3]):
        return beside(module, partial(torch_multi_head, *args, **kwargs), partial(_call, asked))
    seen = attend(module, _call(asked), observe=asked.need_weights)
    joined = seen.output.permute(2, 0, 1, 3).flatten(2)
    output = functional.linear(joined, asked.out_proj_weight, asked.out_proj_bias)
    weights = None
    if asked.need_weights and seen.observation is not None:
        weights = seen.observation.weights().to(output.dtype)
        weights = weights.mean(1) if asked.average_attn_weights else weights
    if asked.query.ndim == 2:
        return output.squeeze(1), None if weights is None else weights.squeeze(0)
    return output, weights


def _call(asked: _Asked) -> Call:
    query, key, value, padding = asked.query, asked.key, asked.value, asked.key_padding_mask
    is_self = key is query
    if query.ndim == 2:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        padding = None if padding is None else padding.unsqueeze(0)
    projected = _projected(
        (query, query if is_self else key, query if value is key and is_self else value),
        asked.in_proj_weight if not asked.use_separate_proj_weight else None,
        (asked.q_proj_weight, asked.k_proj_weight, asked.v_proj_weight),
        asked.in_proj_bias,
    )
    biases, static = (asked.bias_k, asked.bias_v), (asked.static_k, asked.static_v)
    heads = _in_heads(projected, asked.num_heads, biases, static, asked.add_zero_attn)
    if asked.is_causal and padding is None and not asked.need_weights:
        score, mask = SCORE, operation("ge", INPUTS["q"], INPUTS["k"])
    else:
        score, mask = _functions(asked.attn_mask, padding, asked.num_heads, heads.key.shape[2])
    padded = _padding(padding, heads.key.shape[2])
    return Call(
        *heads, heads.query.shape[-1] ** -0.5, score, mask,
        dropout_p=asked.dropout_p if asked.drops else 0.0, is_cross=not is_self, padded_keys=padded,
        padded_queries=padded if is_self and padded is not None and padded.shape[1] == query.shape[0] else None,
    )  # fmt: skip


def _projected(
    inputs: tuple[Tensor, Tensor, Tensor], packed: Tensor | None, separate: tuple[Any, ...], bias: Tensor | None
) -> list[Tensor]:
    """Query, key and value, [length, batch, embed_dim] each."""
    weights = separate if packed is None else packed.chunk(3)
    biases = (None, None, None) if bias is None else bias.chunk(3)
    return [functional.linear(x, weight, b) for x, weight, b in zip(inputs, weights, biases, strict=True)]


def _in_heads(
    projected: list[Tensor], heads: int, biases: tuple[Any, Any], static: tuple[Any, Any], add_zero: bool
) -> _Heads:
    query, *pair = projected
    batch = query.shape[1]
    split = []
    for tensor, bias, given in zip(pair, biases, static, strict=True):
        if bias is not None:
            tensor = torch.cat((tensor, bias.expand(1, batch, -1)))
        own = _split(tensor, heads) if given is None else given.unflatten(0, (batch, heads))
        if add_zero:
            own = torch.cat((own, own.new_zeros(*own.shape[:2], 1, own.shape[-1])), 2)
        split.append(own)
    return _Heads(_split(query, heads), *split)


def _split(tensor: Tensor, heads: int) -> Tensor:
    """[length, batch, embed_dim] as [batch, heads, length, head_dim]."""
    return tensor.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)


def _functions(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, heads: int, k_len: int
) -> tuple[Expression, Expression]:
    """Score and mask of torch's two masks, whose True forbids. Keys beyond a mask, added by the module, are allowed."""
    score, mask = SCORE, TRUE
    b, h, q, k = (INPUTS[name] for name in ("b", "h", "q", "k"))
    if attn_mask is not None:
        place: tuple[Expression, ...] = (q, k)
        if attn_mask.ndim == 3:
            place = (operation("add", operation("mul", b, constant(heads)), h), q, k)
        score, mask = _with(score, mask, attn_mask, place, k_len)
    if key_padding_mask is not None:
        score, mask = _with(score, mask, key_padding_mask, (b, k), k_len)
    return score, mask


def _with(
    score: Expression, mask: Expression, tensor: Tensor, place: tuple[Expression, ...], k_len: int
) -> tuple[Expression, Expression]:
    if (added := k_len - tensor.shape[-1]) > 0:
        tensor = functional.pad(tensor, (0, added))
    element = load(tensor, place)
    if tensor.dtype == torch.bool:
        return score, operation("and", mask, operation("not", element))
    return operation("add", score, element), mask


def _padding(mask: Tensor | None, k_len: int) -> Tensor | None:
    """Which keys are padding, bool [batch, k_len]; None if none is."""
    if mask is None:
        return None
    padded = mask if mask.dtype == torch.bool else mask == -torch.inf
    known = is_transformed(padded) or bool(padded.any())
    return functional.pad(padded, (0, k_len - padded.shape[1])) if known else None


MULTI_HEAD = Source({torch_multi_head: multi_head_attention_forward})

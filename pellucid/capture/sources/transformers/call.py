"""What an attention module of transformers asks for, as a Call.

The library hands over query, key and value in heads, a mask, and keyword arguments of which each model has its own.
Those known here are all that change the numbers; any other that is not None refuses the call, for ignoring it would be
wrong without a word.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pellucid.capture.calls.call import Call, padding_of
from pellucid.capture.calls.mask import LazyMask, MaskRule
from pellucid.capture.sources.transformers.origin import Origin
from pellucid.language import INPUTS, SCORE, TRUE, Expression, constant, load, operation

# Passed along by models, and without effect on the numbers of attention.
PASSENGERS = frozenset((
    "position_ids", "cache_position", "use_cache", "past_key_values", "output_attentions", "output_hidden_states",
    "output_router_logits", "return_dict", "deterministic", "num_items_in_batch", "encoder_hidden_states",
    "encoder_attention_mask", "labels", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx",
    "token_type_ids", "mm_token_type_ids", "logits_to_keep", "cross_attention_mask", "layer_idx", "layer_head_mask",
    "position_embeddings", "is_training", "interpolate_pos_encoding", "output_cross_attentions", "training",
    "max_new_tokens", "min_new_tokens", "max_length", "min_length", "do_sample", "num_beams", "output_logits",
    "output_scores", "return_dict_in_generate",  # a generate of the model's own hands on whatever it is given
    "grid_thw",  # patches of each image or frame: attention is called for each, or told by cu_seq_lens
))  # fmt: skip
CAUSAL = operation("le", INPUTS["k"], INPUTS["q"])


class UnknownArgumentError(ValueError):
    """An attention module passes an argument that changes its numbers in a way not known here."""


def call_of(
    origin: Origin,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sinks: Tensor | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> Call:
    """The call described by the arguments of an attention function of transformers.

    Args:
        origin: in whose place the call is computed, which says what its mask means.
        module: what attends.
        query: [batch, heads, q_len, head_dim].
        key: [batch, kv_heads, k_len, head_dim].
        value: [batch, kv_heads, k_len, value_dim].
        attention_mask: a LazyMask, or bool or added to the scores, [batch or 1, heads or 1, q_len or 1, k_len].
        scaling: what query @ key.T is multiplied by; 1 / sqrt(head_dim) if None.
        dropout: probability that a weight is dropped.
        is_causal: whether a call without a mask is; what the module says if None.
        sliding_window: not looked at: the mask says it.
        softcap: what scores are kept within, before a mask or a bias is added; not at all if None.
        s_aux: one logit a head that takes weight and gives no value.
        sinks: the same by another name, where s_aux is None.
        position_bias: added to the scores; broadcasts to [batch, heads, q_len, k_len].
        **others: those of PASSENGERS, or None.

    Raises:
        UnknownArgumentError: an argument is neither known nor None, there is not one sink a head, or there is no mask
            and it is not known whether the origin would look ahead.

    """
    _refuse(others)
    sink = _sink_logits(s_aux if s_aux is not None else sinks, query)
    q_len, (mask_tensor, rule) = query.shape[2], _read(attention_mask)
    if rule is not None and (rule.given_k_len != key.shape[2] or rule.q_len != q_len):
        mask_tensor, rule = attention_mask.whole(), None  # type: ignore[union-attr]
    score = SCORE if softcap is None else _softcapped(softcap)
    mask = TRUE
    if rule is not None:
        key, value = key[:, :, : rule.k_len], value[:, :, : rule.k_len]
        mask = _of_batch(rule, max(query.shape[0], key.shape[0]))
    elif mask_tensor is not None:
        score, mask = _with_tensor(origin, score, mask_tensor)
    elif q_len > 1 and looks_back(origin, module, is_causal):
        key, value = key[:, :, :q_len], value[:, :, :q_len]
        mask = CAUSAL
    if position_bias is not None:
        score = operation("add", score, _element(position_bias))
    call = Call(query, key, value, _scale(scaling, query), score, mask, sink, dropout)
    if rule is not None and rule.batch == call.batch:
        call.start, call.k_start, call.rule = rule.start, rule.k_start, rule
        call.padded_keys, call.padded_queries = rule.padded_keys, rule.padded_queries
    elif mask_tensor is not None:
        _note_padding(call, mask_tensor)
    elif origin == "sdpa" and (mask is CAUSAL or _says_causal(module, is_causal)):
        _place(call)
    return call


def _read(mask: Tensor | None) -> tuple[Tensor | None, MaskRule | None]:
    """A mask's numbers, or the rule that says the same of them."""
    if not isinstance(mask, LazyMask):
        return mask, None
    return (mask.whole(), None) if mask.is_changed else (None, mask.rule)


def looks_back(origin: Origin, module: nn.Module, is_causal: bool | None) -> bool:
    """Whether a call without a mask is causal: to SDPA if the call or the module says so, or none does; else never.

    Raises UnknownArgumentError where it is not known in whose place the call is computed, and nobody says.
    """
    said = getattr(module, "is_causal", None) if is_causal is None else is_causal
    if origin not in (None, "sdpa"):
        return False
    if said is None and origin is None:
        raise UnknownArgumentError("no mask, and nothing that says whether it is causal")
    return True if said is None else bool(said)


def _says_causal(module: nn.Module, is_causal: bool | None) -> bool:
    return bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)


def _place(call: Call) -> None:
    """Note where a causal call without a mask stands: at the beginning, or, of one query, at the end."""
    if torch.compiler.is_compiling():
        return
    call.start = 0 if call.q_len > 1 else call.k_len - 1
    call.rule = MaskRule(
        _is_before, call.batch, call.q_len, call.k_len, call.k_len, call.start, 0, None, call.query.device, _unused
    )


def _is_before(b: Any, h: Any, q: Any, k: Any) -> Any:
    return k <= q


def _unused() -> Tensor:
    raise NotImplementedError


def _note_padding(call: Call, mask: Tensor) -> None:
    if not torch.compiler.is_compiling():  # a graph cannot ask what is padding
        call.padded_keys = padding_of(mask, call.batch)
        call.padded_queries = call.padded_keys if call.q_len == call.k_len else None


def _refuse(others: dict[str, Any]) -> None:
    for name, value in others.items():
        if value is None or name in PASSENGERS:
            continue
        raise UnknownArgumentError(
            f"{name}: an argument of the attention call that is not known to change nothing, got {_told(value)}"
        )


def _told(value: Any) -> str:
    return repr(value) if isinstance(value, bool | int | float) else type(value).__name__


def _scale(scaling: float | None, query: Tensor) -> float:
    return query.shape[-1] ** -0.5 if scaling is None else float(scaling)


def _sink_logits(sinks: Tensor | None, query: Tensor) -> Tensor | None:
    if sinks is None:
        return None
    if sinks.numel() != query.shape[1]:
        raise UnknownArgumentError(f"sinks: one logit a head is known, got {list(sinks.shape)}")
    return sinks.reshape(-1)


def _softcapped(cap: float) -> Expression:
    return operation("mul", constant(float(cap)), operation("tanh", operation("truediv", SCORE, constant(float(cap)))))


def _of_batch(rule: MaskRule, batch: int) -> Expression:
    """A rule's mask, for one sequence or for each of the batch."""
    if rule.batch == batch or rule.padding is None:
        return rule.by_index
    return _element(rule.dense()[..., : rule.k_len])


def _with_tensor(origin: Origin, score: Expression, mask: Tensor) -> tuple[Expression, Expression]:
    """A mask of numbers, bool or added to the scores, [batch or 1, heads or 1, q_len or 1, k_len].

    Where the library's mask for eager attention forbids by the least number that there is, a key is masked: so a row
    of padding is 0, as it is where the mask is a rule.
    """
    element = _element(mask)
    if mask.dtype == torch.bool:
        return score, element
    added = operation("add", score, element)
    if origin != "eager":
        return added, TRUE
    return added, operation("gt", element, constant(torch.finfo(mask.dtype).min / 2))


def _element(tensor: Tensor) -> Expression:
    """The element of a tensor that broadcasts to [batch, heads, q_len, k_len], at a place."""
    names = ("b", "h", "q", "k")[4 - tensor.ndim :]
    sizes = zip(tensor.shape, names, strict=True)
    return load(tensor, tuple(constant(0) if size == 1 else INPUTS[name] for size, name in sizes))

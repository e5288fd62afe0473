"""The face: `attention` and `observe`. Arguments are checked, the problem described, the engine run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from pellucid import engines
from pellucid.arguments import Arguments, Function, checked_readouts, describe
from pellucid.distributed.asked import is_sharded, sharded
from pellucid.engines import repeated
from pellucid.engines.executing import executed
from pellucid.observation import Observation
from pellucid.readouts import Readout


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    score_mod: Function | None = None,
    mask_mod: Function | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Softmax attention, `softmax(score_mod(query @ key.T * scale) where mask_mod) @ value`.

    A drop-in for torch.nn.functional.scaled_dot_product_attention, with FlexAttention's functions. A query that may
    look at no key gets 0, and gradients 0. A process that loads a program of torch.export imports `pellucid.functional`
    first.

    Args:
        query: [..., heads, q_len, head_dim], float16, bfloat16, float32 or float64; also [q_len, head_dim].
        key: [..., heads, k_len, head_dim]; leading dimensions broadcast against query's.
        value: [..., heads, k_len, value_dim]; value_dim may differ from head_dim.
        attn_mask: broadcasts to [..., heads, q_len, k_len]; a bool mask is True where a key may be looked at, a float
            mask is added to the scores. Gradients flow to a float mask.
        dropout_p: probability that a weight is dropped, the others scaled up by 1 / (1 - dropout_p).
        is_causal: only keys up to the query's own index, `masks.causal()`, aligned top-left as in SDPA. With
            attn_mask both hold.
        scale: what query @ key.T is multiplied by; 1 / sqrt(head_dim) if None.
        enable_gqa: let several query heads share a key and value head (grouped-query attention).
        score_mod: changes each score: `(score, b, h, q_idx, kv_idx) -> score`, in the score language. With several
            batch dimensions b counts them flattened.
        mask_mod: says whether a key may be looked at: `(b, h, q_idx, kv_idx) -> bool`.
        sinks: one logit a head, [heads], that takes weight and gives no value (as in gpt-oss).

    Returns:
        [..., heads, q_len, value_dim], query's dtype.

    Raises:
        TypeError: an argument of the wrong type or dtype; TraceError, its subclass, for an untraceable function.
        ValueError: shapes that do not fit one another.

    Example:
        >>> import torch, pellucid
        >>> query, key, value = torch.rand(3, 2, 8, 5, 64).unbind(0)
        >>> pellucid.attention(query, key, value, is_causal=True).shape
        torch.Size([2, 8, 5, 64])

    """
    call = Arguments(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, score_mod, mask_mod, sinks)
    if has_torch_function(call[:3]):
        return _handed_over(attention, call)
    if is_sharded(call):
        return sharded(call)[0]
    known = repeated.signature(call)
    earlier = repeated.find(known)
    if earlier is not None:
        try:
            return earlier.repeat.output(query, key, value, sinks, () if attn_mask is None else (attn_mask,))
        except engines.AddressError:  # the long way does without addresses, or says what is wrong
            known = None
    problem, shaped = describe(call)
    result = executed(problem)
    repeated.remember(known, call, problem, shaped, result)
    return shaped(result.output)


def observe(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    score_mod: Function | None = None,
    mask_mod: Function | None = None,
    sinks: Tensor | None = None,
    readouts: Iterable[Readout] | None = None,
) -> tuple[Tensor, Observation]:
    """`attention`'s output, and what the attention did, without the queries x keys matrix.

    Args:
        query: as in `attention`, like all that follow.
        key: see `attention`.
        value: see `attention`.
        attn_mask: see `attention`.
        dropout_p: see `attention`; what is read is the weights before dropout, `dropped` says which were.
        is_causal: see `attention`.
        scale: see `attention`.
        enable_gqa: see `attention`.
        score_mod: see `attention`.
        mask_mod: see `attention`.
        sinks: see `attention`.
        readouts: what to read, from `pellucid.readouts`; LogSumExp, Entropy and MaxScore if None.

    Returns:
        The output, and an Observation with each readout's result and any exact part of the weights on demand.

    Raises:
        TypeError: as `attention`, or `readouts` holds something else than readouts.
        ValueError: as `attention`, or two readouts have one name, or one does not fit the call (TopK's k).

    Example:
        >>> import torch, pellucid
        >>> x = torch.rand(10, 4)
        >>> output, seen = pellucid.observe(x, x, x, readouts=[pellucid.Entropy(), pellucid.TopK(3)])
        >>> seen.entropy.shape, seen.topk.keys.shape, seen.weights(queries=slice(0, 2)).shape
        (torch.Size([10]), torch.Size([10, 3]), torch.Size([2, 10]))

    """
    call = Arguments(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, score_mod, mask_mod, sinks)
    if is_sharded(call):
        return sharded(call, [readouts])  # type: ignore[return-value]
    call = call._replace(readouts=checked_readouts(readouts, Observation))
    if has_torch_function(call[:3]):
        return _handed_over(observe, call)
    known = repeated.signature(call)
    earlier = repeated.find(known)
    if earlier is not None:
        problem = earlier.problem_of(call)
        try:
            result = earlier.repeat.result(problem)
            return earlier.shaped(result.output), Observation(problem, result, earlier.shaped)
        except engines.AddressError:
            known = None
    problem, shaped = describe(call)
    result = executed(problem)
    repeated.remember(known, call, problem, shaped, result)
    return shaped(result.output), Observation(problem, result._replace(again=None), shaped)


def _handed_over(function: Callable[..., Any], call: Arguments) -> Any:
    """What a TorchFunctionMode, or tensors of a kind of their own, make of a call, as of torch's own functions."""
    named: dict[str, Any] = {"score_mod": call.score_mod, "mask_mod": call.mask_mod, "sinks": call.sinks}
    if function is observe:
        named["readouts"] = call.readouts
    return handle_torch_function(function, call[:3], *call[:8], **named)

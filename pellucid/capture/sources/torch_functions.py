"""Attention that a model calls as a function of torch or of Pellucid, seen by a TorchFunctionMode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import AuxOutput, noop_mask
from torch.nn.functional import multi_head_attention_forward as torch_multi_head
from torch.nn.functional import scaled_dot_product_attention as torch_sdpa

from pellucid import functional
from pellucid.capture.attending import (
    attend,
    beside,
    is_attending,
    left_to_torch,
    refuse,
    running_module,
    sessions_of,
)
from pellucid.capture.calls.call import Call, of_problem, padding_of
from pellucid.capture.calls.mask import whole_of
from pellucid.capture.modes import StackedMode
from pellucid.capture.sources import flex
from pellucid.capture.sources.by_hand import ByHand
from pellucid.capture.sources.multihead import multi_head_attention_forward
from pellucid.language import TraceError
from pellucid.readouts import LogSumExp, MaxScore

NOBODY = nn.Identity()  # attends where nobody watches
BY_HAND = ByHand()  # one for all modes of a thread: each of them is told of the same calls


class Capture(StackedMode):
    """Hands calls of attention to whoever watches the module that is running; all else runs as it is.

    What torch.compile traces stays as it is.

    Args:
        also_unwatched: whether Pellucid computes calls that nobody watches too.

    """

    def __init__(self, also_unwatched: bool = False) -> None:
        super().__init__()
        self._otherwise = NOBODY if also_unwatched else None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if is_attending() or not self.is_open:
            return func(*args, **(kwargs or {}))
        handler = None if torch.compiler.is_compiling() else HANDLERS.get(func)
        module = None if handler is None else running_module()
        if module is None:  # asked like this because a module may have a length, which may be 0
            module = self._otherwise
        if handler is None or module is None:
            result = func(*args, **(kwargs or {}))
            if self._otherwise is None:
                BY_HAND.saw(func, args, kwargs or {}, result)
            return result
        return handler(
            module, *map(whole_of, args), **{name: whole_of(value) for name, value in (kwargs or {}).items()}
        )

    def __exit__(self, *exception: Any) -> None:
        BY_HAND.forget_all()  # of this thread
        super().__exit__(*exception)


def scaled_dot_product_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What torch.nn.functional.scaled_dot_product_attention gives.

    Torch's own gives it with dropout and in a forward that may be run again, and for who watches in transforms.

    Args:
        module: what attends.
        query: see torch's, as for all that follow.
        key: see torch's.
        value: see torch's.
        attn_mask: see torch's.
        dropout_p: see torch's.
        is_causal: see torch's.
        scale: see torch's.
        enable_gqa: see torch's.

    """
    asked = (query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    own = partial(
        torch_sdpa, *asked[:3], attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale,
        enable_gqa=enable_gqa,
    )  # fmt: skip
    if left_to_torch(module, bool(dropout_p), *asked[:3]):
        return beside(module, own, partial(_call, *asked))
    try:
        return _attended(module, *asked)
    except (TypeError, ValueError, TraceError) as error:
        refuse(module, f"its call is not one that Pellucid computes: {error}")
        return own()


def attention(module: nn.Module, *args: Any, **arguments: Any) -> Tensor:
    """What pellucid.attention gives."""
    return _attended(module, *args, **arguments)


def observe(module: nn.Module, *args: Any, readouts: Any = None, **arguments: Any) -> Any:
    """What pellucid.observe gives: the model's own observation, beside that of whoever watches.

    Args:
        module: what attends.
        *args: those of `pellucid.observe`, in order.
        readouts: see `pellucid.observe`.
        **arguments: the others, by name.

    """
    own = partial(functional.observe, *args, readouts=readouts, **arguments)
    return beside(module, own, partial(_call, *args, **arguments))


def _attended(module: nn.Module, *args: Any, **arguments: Any) -> Tensor:
    call, batch, shaped = _described(*args, **arguments)
    output = attend(module, call).output
    return shaped(output.reshape(*batch, *output.shape[1:]))


def _described(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    score_mod: Any = None,
    mask_mod: Any = None,
    sinks: Tensor | None = None,
) -> tuple[Call, tuple[int, ...], Callable[[Tensor], Tensor]]:
    """The call, its batch dimensions, and what gives its output their shape."""
    problem, shaped = functional.describe(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, score_mod, mask_mod, sinks, ()
    )
    call = of_problem(problem)
    if attn_mask is not None:
        _note_padding(call, attn_mask)
    return call, problem.batch, shaped


def _call(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any, dropout_p: Any, *others: Any, **arguments: Any
) -> Call:
    """A call as it is read: without dropout, which would draw a seed."""
    return _described(query, key, value, attn_mask, 0.0, *others, **arguments)[0]


def _note_padding(call: Call, attn_mask: Tensor) -> None:
    """Take the keys that no query may look at as padding, and in self-attention the queries at their places too."""
    call.padded_keys = padding_of(attn_mask, call.batch)
    if call.padded_keys is not None and call.q_len == call.k_len:
        call.padded_queries = call.padded_keys


def flex_attention(
    module: nn.Module,
    original: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Any = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: Any = None,
) -> Any:
    """What torch's flex_attention gives.

    Args:
        module: what attends.
        original: torch's own function, which is called for what Pellucid does not compute.
        query: see torch's, as for all that follow; [batch, heads, q_len, head_dim] is what is computed.
        key: see torch's.
        value: see torch's.
        score_mod: see torch's.
        block_mask: see torch's; one whose function says all of it is computed.
        scale: see torch's.
        enable_gqa: see torch's.
        return_lse: see torch's.
        kernel_options: see torch's; only handed on to `original`.
        return_aux: see torch's.

    Raises:
        Exception: whatever `original` raises of a call that Pellucid does not compute.

    """
    try:
        if return_lse and return_aux is not None:
            raise ValueError("return_lse and return_aux are one too many")
        mask_mod = _mask_mod(query, key, value, block_mask)
        plain = {"scale": scale, "enable_gqa": enable_gqa, "score_mod": score_mod, "mask_mod": mask_mod}
        if not return_lse and return_aux is None:
            return _attended(module, query, key, value, **plain)
        if sessions_of(module):
            _attended(module, query, key, value, **plain)
        output, seen = functional.observe(query, key, value, **plain, readouts=(LogSumExp(), MaxScore()))
    except (TypeError, ValueError, TraceError) as error:
        refuse(module, f"its call is not one that Pellucid computes: {error}")
        given = (query, key, value, score_mod, block_mask, scale, enable_gqa, return_lse, kernel_options)
        return original(*given, return_aux=return_aux)
    if return_lse:
        return output, seen.lse
    return output, AuxOutput(**{name: seen[name] for name in AuxOutput._fields if getattr(return_aux, name)})


def _mask_mod(query: Tensor, key: Tensor, value: Tensor, block_mask: Any) -> Any:
    """The function that says all of a block mask; ValueError where torch says more, or says no."""
    if not query.ndim == key.ndim == value.ndim == 4 or not query.shape[0] == key.shape[0] == value.shape[0]:
        raise ValueError("query, key and value are not of four dimensions and one batch")
    if block_mask is None:
        return None
    if tuple(block_mask.shape[-2:]) != (query.shape[-2], key.shape[-2]):
        raise ValueError(f"block_mask is one of {block_mask.shape[-2:]} queries and keys")
    if block_mask.mask_mod is noop_mask and block_mask.sparsity() > 0:
        raise ValueError("block_mask masks whole blocks, which no function says")
    return block_mask.mask_mod


HANDLERS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch_sdpa: scaled_dot_product_attention,
    torch_multi_head: multi_head_attention_forward,
    functional.attention: attention,
    functional.observe: observe,
    flex.flex_attention: flex_attention,
}

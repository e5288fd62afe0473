"""FlexAttention, in the files of models that call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.attention.flex_attention import AuxOutput, noop_mask

from pellucid import functional
from pellucid.arguments import Arguments
from pellucid.capture.attending import refuse, sessions_of
from pellucid.capture.sources.described import attended
from pellucid.capture.sources.opaque import Opaque
from pellucid.language import TraceError
from pellucid.readouts import LogSumExp, MaxScore


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
            return attended(module, Arguments(query, key, value, **plain))
        if sessions_of(module):
            attended(module, Arguments(query, key, value, **plain))
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


FLEX = Opaque("torch.nn.attention.flex_attention", "flex_attention", flex_attention)

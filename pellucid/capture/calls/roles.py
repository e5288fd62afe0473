"""What an attention module is for: self, causal self or cross. Decided by the module and its first call."""

from __future__ import annotations

import re

import torch
from torch import nn

from pellucid.capture.calls.call import FORBIDDING, Call
from pellucid.language import Expression, evaluate

CROSS_NAME = re.compile(r"cross|encoder_attn|encdec|enc_dec|encoder_decoder|multihead_attn|src_attn", re.IGNORECASE)
PLACES = 64  # pairs of neighbours looked at


def role_of(name: str, module: nn.Module | None, call: Call, is_new: bool) -> str:
    """The role of a module, from its first call: "self", "causal self" or "cross".

    Args:
        name: the module's, in its model.
        module: what attends, if it is known.
        call: what it asks for.
        is_new: whether unequal numbers of queries and keys speak for "cross", if nothing else says what it is; not
            where a static cache may have brought more keys.

    """
    if _is_cross(name, module, call, is_new):
        return "cross"
    return "causal self" if _is_causal(module, call) else "self"


def _is_cross(name: str, module: nn.Module | None, call: Call, is_new: bool) -> bool:
    if call.is_cross is not None:
        return call.is_cross
    own = getattr(module, "is_cross_attention", None)
    if isinstance(own, bool):
        return own
    if module is not None and "cross" in type(module).__name__.lower():
        return True
    if any(CROSS_NAME.search(part) for part in name.split(".")[-2:]):
        return True
    # A cache brings more keys than queries, but then it is known where the queries stand.
    return is_new and call.q_len != call.k_len and call.start is None and not _says_causal(module)


def _is_causal(module: nn.Module | None, call: Call) -> bool:
    found = forbids_ahead(call)
    return _says_causal(module) if found is None else found  # a single query at the end of its sequence


def forbids_ahead(call: Call) -> bool | None:
    """Whether no query may look at the key after its own, counted from 0 if unknown; None if no query has one."""
    start, k_start, q_len = call.start or 0, call.k_start, call.q_len
    if _functions_of_all(call) is not None:  # then all ranks say the same
        assert call.stretch is not None
        start, q_len = 0, call.stretch.whole.q_len
    first = max(0, k_start - start - 1)
    pairs = min(q_len, call.k_len + k_start - start - 1) - first
    if pairs < 1:
        return None
    queries = torch.linspace(first, first + pairs - 1, min(pairs, PLACES), device="cpu").round().to(torch.int64)
    return not bool(_allowed(call, queries, queries + start + 1 - k_start).any())


def _functions_of_all(call: Call) -> tuple[Expression, Expression] | None:
    """The score and the mask of the whole sequence of which a call has some queries, where they are known."""
    return None if call.stretch is None else call.stretch.functions


def _says_causal(module: nn.Module | None) -> bool:
    return bool(getattr(module, "is_causal", getattr(module, "is_decoder", False)))


def _allowed(call: Call, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Whether some pairs of a query and a key are allowed, bool [batch, pairs]; of the first head."""
    device = call.query.device
    inputs = {
        "score": torch.zeros((), device=device),
        "b": torch.arange(call.batch, device=device)[:, None],
        "h": torch.zeros((), dtype=torch.int64, device=device),
        "q": queries.to(device),
        "k": keys.to(device),
    }
    functions = _functions_of_all(call) or (call.score, call.mask)
    with torch.no_grad():
        score, mask = evaluate(*functions, inputs=inputs, dtype=torch.float32)
    return mask & (score > FORBIDDING)

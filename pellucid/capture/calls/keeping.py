"""What exact weights are computed from: the query and key of chosen layers, kept once for all calls that share them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pellucid.capture.calls.call import FORBIDDING, Call
from pellucid.language import INPUTS, TRUE, Expression, evaluate, operation, walk
from pellucid.language.shift import of_heads, with_tensors
from pellucid.record.part import Part

_ROWS = 64  # queries whose scores are computed at once


def part_of(call: Call, start: int, heads: Tensor | None) -> Part:
    """The part of a layer that one call is; of some heads only, if they are given. Its keys are those of the call."""
    score, mask = call.functions_by_position(start)
    if call.rule is None and call.q_len == 1 and call.k_start + call.k_len == start + 1:
        mask = operation("and", mask, operation("ge", INPUTS["q"], INPUTS["k"]))  # so too when more keys have come
    query, key, sinks = call.problem.query.detach(), call.problem.key.detach(), call.sinks
    if sinks is not None:
        sinks = sinks.detach()
    batch, every = call.batch, call.heads
    query = query.expand(batch, every, -1, -1)
    key = key.expand(batch, -1, -1, -1)
    if heads is not None:
        heads = heads.to(query.device)
        own = heads // (every // key.shape[1]) if key.shape[1] > 1 else torch.zeros_like(heads)
        query, key = query[:, heads], key[:, own]
        sinks = None if sinks is None else sinks[heads]
        score, mask = of_heads(score, heads), of_heads(mask, heads)
    score, mask = _without_graph(score), _without_graph(mask)
    return Part(start, call.k_start, query, key, call.scale, score, mask, sinks)


def _without_graph(function: Expression) -> Expression:
    followed = any(node.op == "load" and node.value.requires_grad for node in walk(function))
    return with_tensors(function, Tensor.detach) if followed else function


def kept_part_of(call: Call, start: int, heads: Tensor | None) -> Part:
    """The same with the keys as they are now: a copy, if they lie in a cache that is written in place."""
    part, key = part_of(call, start, heads), call.problem.key
    is_copy = heads is not None
    written = key.is_inference() or key._version > 0
    return replace(part, key=part.key.clone()) if written and not is_copy else part


def kept_bytes(call: Call, heads: Tensor | None) -> int:
    """Bytes that a call's query and key will take, or its scores."""
    count = call.heads if heads is None else len(heads)
    kv_heads = call.key.shape[1] if heads is None else count
    numbers = count * call.q_len * call.query.shape[-1] + kv_heads * call.k_len * call.key.shape[-1]
    if call.by_hand:  # its scores as they are, of all heads
        numbers += call.heads * call.q_len * call.k_len
    return call.batch * numbers * call.problem.query.element_size()


def extended(parts: list[Part], new: Part) -> list[Part]:
    """The parts with that of a later call, one part where key and functions serve all."""
    if not parts:
        return [new]
    *before, last = parts
    if _is_longer(last.key, new.key) and last.k_start == new.k_start:
        before = [_on(part, new.key) if _shares(part, last) else part for part in before]
        last = _on(last, new.key)
        if last.start + last.q_len == new.start and last.scale == new.scale and _serves(last, new):
            query = torch.cat((last.query, new.query), -2)
            joined = Part(last.start, new.k_start, query, new.key, new.scale, new.score, new.mask, new.sinks)
            return [*before, joined]
    return [*before, last, new]


def _is_longer(earlier: Tensor, later: Tensor) -> bool:
    """Whether a key tensor begins with another.

    Of a single sequence its last key tells: a cache only grows. Of several each key is looked at, for those of beams
    change places, and in the first layer two beams with the same last token have the same last key.
    """
    length = earlier.shape[-2]
    if later.shape[-2] < length or earlier.shape[:2] != later.shape[:2] or not length:
        return False
    looked_at = slice(length - 1, length) if len(earlier) == 1 else slice(length)
    return torch.equal(earlier[:, :, looked_at], later[:, :, looked_at])


def _shares(part: Part, last: Part) -> bool:
    return (
        part.k_start == last.k_start and part.key.untyped_storage().data_ptr() == last.key.untyped_storage().data_ptr()
    )


def _on(part: Part, key: Tensor) -> Part:
    """A part with its keys as the beginning of a longer key tensor, so that the shorter one can leave memory."""
    return replace(part, key=key[:, :, : part.k_len])


def _serves(last: Part, new: Part) -> bool:
    """Whether a later call's functions serve the earlier queries too: of the same form, on data that only grew."""
    pairs = ((last.score, new.score), (last.mask, new.mask))
    return all(_form(mine) == _form(theirs) and _covers(mine, theirs) for mine, theirs in pairs) and _closed(last, new)


def _closed(last: Part, new: Part) -> bool:
    """Whether the mask keeps earlier queries from keys that came after them."""
    queries = range(last.start, last.start + last.q_len)
    return closed(new, queries, range(last.k_start + last.k_len, new.k_start + new.k_len))


def closed(part: Part, queries: range, keys: range) -> bool:
    """Whether a part's mask keeps queries from looking at keys, all given by their positions."""
    if not queries or not keys:
        return True
    if part.mask is TRUE:
        return False
    device = part.key.device
    place = {
        "b": torch.arange(part.query.shape[0], device=device)[:, None, None, None],
        "h": torch.arange(part.query.shape[1], device=device)[:, None, None],
        "q": torch.arange(queries.start, queries.stop, device=device)[:, None],
        "k": torch.arange(keys.start, keys.stop, device=device),
    }
    (allowed,) = evaluate(part.mask, inputs=place, dtype=torch.float32)
    return not bool(allowed.any())


def forbidden(part: Part, queries: range, keys: range) -> bool:
    """Whether no query looks at a key: by the mask, or by scores to which a mask of numbers was added."""
    if closed(part, queries, keys):
        return True
    device = part.key.device
    heads = torch.arange(part.query.shape[1], device=device)
    own_keys = torch.arange(keys.start, keys.stop, device=device) - part.k_start
    rows = torch.arange(queries.start, queries.stop, device=device).split(_ROWS)
    return all(bool((part.scores(some, own_keys, heads) <= FORBIDDING).all()) for some in rows)


def before(parts: list[Part], end: int, role: str) -> list[Part]:
    """The parts without their queries from position `end` on, nor in self-attention keys that no other looks at."""
    return [_before(part, end, role) for part in parts if part.start < end]


def _before(part: Part, end: int, role: str) -> Part:
    q_end, k_end = part.start + part.q_len, part.k_start + part.k_len
    query, key = part.query[:, :, : end - part.start], part.key
    if role != "cross" and forbidden(part, range(part.start, min(end, q_end)), range(end, k_end)):
        key = key[:, :, : max(0, end - part.k_start)]
    return replace(part, query=query, key=key)


def _form(root: Expression) -> str:
    """What an expression computes, whatever tensors it reads."""
    numbers: dict[int, int] = {}
    lines = []
    for node in walk(root):
        numbers[id(node)] = len(numbers)
        value = f"{node.value.dtype}{node.value.ndim}" if node.op == "load" else repr(node.value)
        lines.append(f"{node.op} {value} {[numbers[id(arg)] for arg in node.args]}")
    return "\n".join(lines)


def _covers(earlier: Expression, later: Expression) -> bool:
    """Whether each tensor that the later expression reads begins with the one that the earlier reads."""
    pairs = zip(walk(earlier), walk(later), strict=True)
    return all(_begins(old.value, new.value) for old, new in pairs if old.op == "load")


def _begins(old: Tensor, new: Tensor) -> bool:
    if any(size > limit for size, limit in zip(old.shape, new.shape, strict=True)):
        return False
    return torch.equal(old, new[tuple(slice(size) for size in old.shape)])

"""Calls by the arguments of scaled_dot_product_attention and of pellucid.attention, made into a Call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pellucid.arguments import Arguments, describe
from pellucid.capture.attending import attend, beside, left_to_torch, refuse, sessions_of, unseen, watched_of
from pellucid.capture.calls.call import Call, HeadsFrom, of_cut, of_problem, padding_of
from pellucid.capture.calls.stretch import Stretch, cut
from pellucid.distributed.asked import is_of_dtensors, is_shared_here, sharded
from pellucid.language import TraceError

if TYPE_CHECKING:
    from pellucid.distributed.plan import Plan
    from pellucid.distributed.region import Region


def led(module: nn.Module, own: Callable[[], Tensor], asked: Arguments) -> Tensor:
    """What a library's function gives that is asked as scaled_dot_product_attention is.

    The library's own gives it with dropout, in a forward that may be run again, for who watches in transforms, and
    where Pellucid does not compute the call, which is then listed as missed.
    """
    if left_to_torch(module, bool(asked.dropout_p), *asked[:3]):
        return beside(module, own, partial(call_of, module, asked))
    try:
        return attended(module, asked)
    except (TypeError, ValueError, TraceError) as error:
        return left_alone(module, own, error)


def left_alone(module: nn.Module, own: Callable[[], Tensor], error: Exception) -> Tensor:
    """What a library's function gives for a call that Pellucid does not compute; the module is listed as missed."""
    refuse(module, f"its call is not one that Pellucid computes: {error}")
    return unseen(own)


def attended(module: nn.Module, asked: Arguments) -> Tensor:
    """The output of a module's call by the arguments of pellucid.attention, in their shape."""
    if is_shared_here() and not sessions_of(module):
        return unseen(lambda: sharded(asked)[0])
    call, shaped = _described(module, asked)
    return shaped(attend(module, call).output)


def call_of(module: nn.Module, asked: Arguments) -> Call:
    """A module's call as it is read: without dropout, which would draw a seed."""
    return _described(module, asked._replace(dropout_p=0.0))[0]


def _described(module: nn.Module, asked: Arguments) -> tuple[Call, Callable[[Tensor], Tensor]]:
    """The call, and what gives its output the shape of the arguments; of several ranks this rank's part."""
    if is_shared_here():
        return unseen(lambda: _of_ranks(module, asked))
    if is_of_dtensors(asked):
        from pellucid.distributed.placements import own_part

        part = own_part(asked)
        call, region = of_problem(part.problem), part.plan.region
        call.heads_from = HeadsFrom(region.heads.start, region.whole.heads)
        if part.plan.is_along_sequence:
            call.start, call.stretch = region.queries.start, _stretch(part.plan)
        if asked.attn_mask is not None:
            _note_padding_of_rank(call, asked.attn_mask, region)
        return call, lambda output: part.output(output.reshape(*part.problem.batch, *output.shape[1:]))
    problem, shaped = describe(asked)
    call = of_problem(problem)
    if asked.attn_mask is not None:
        _note_padding(call, asked.attn_mask)
    return call, lambda output: shaped(output.reshape(*problem.batch, *output.shape[1:]))


def _of_ranks(module: nn.Module, asked: Arguments) -> tuple[Call, Callable[[Tensor], Tensor]]:
    """The same inside `context_parallel`: this rank's stretch of the call of all."""
    part = cut(asked, watched_of(module))
    call = of_cut(part)
    if asked.attn_mask is not None:
        _note_padding_of_rank(call, asked.attn_mask, part.region)
    return call, lambda output: part.output(output.reshape(*part.problem.batch, *output.shape[1:]))


def _stretch(plan: Plan) -> Stretch:
    """Which queries a rank has of a call of DTensors."""
    region = plan.region
    sizes = replace(region.whole, batch=(torch.Size(map(len, region.batch)).numel(),), heads=len(region.heads))
    return Stretch(sizes, region.queries, plan.along_sequence, _whole_ids)


def _whole_ids(ids: Tensor) -> Tensor:
    return ids.full_tensor() if hasattr(ids, "full_tensor") else ids


def _note_padding_of_rank(call: Call, attn_mask: Tensor, region: Region) -> None:
    """The same of a rank's part of a call: a key is padding if no query of any rank may look at it."""
    whole = region.whole
    if len(whole.batch) != 1:
        return
    mask = attn_mask.full_tensor() if hasattr(attn_mask, "full_tensor") else attn_mask
    every = padding_of(mask, whole.batch[0])
    own = None if every is None else every[region.batch[0].start : region.batch[0].stop]
    if own is not None and bool(own.any()):
        call.padded_keys = own
        if whole.q_len == whole.k_len:
            call.padded_queries = own[:, region.queries.start : region.queries.stop]


def _note_padding(call: Call, attn_mask: Tensor) -> None:
    """Take the keys that no query may look at as padding, and in self-attention the queries at their places too."""
    call.padded_keys = padding_of(attn_mask, call.batch)
    if call.padded_keys is not None and call.q_len == call.k_len:
        call.padded_queries = call.padded_keys

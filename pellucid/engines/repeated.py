"""Calls like an earlier one: known to be valid, so that what remains is to run the plan that the engine made for it.

A call has a signature if nothing but the numbers in its tensors can change what happens: no function of the user's, no
dropout, no gradient, and nobody who looks on (autocast, transforms, modes, tracing). Others take the long way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad
from torch.nn import Parameter

from pellucid import engines
from pellucid.arguments import Arguments
from pellucid.problem import Problem, Result
from pellucid.readouts import Readout
from pellucid.tensors.once import forget_oldest

MOST = 512
PLAIN = (Tensor, Parameter)
_known: dict[Hashable, Known] = {}


def signature(call: Arguments) -> Hashable | None:
    """What calls have in common that can be run alike; None for a call that must be looked at.

    Of each tensor dtype, shape and strides, and the rest as it is, with the number of threads and the engine. A call
    that reads something keeps its problem, so that a mask of an earlier one does not do.
    """
    query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, score_mod, mask_mod, sinks, readouts = call
    if score_mod is not None or mask_mod is not None or (readouts and attn_mask is not None):
        return None
    if dropout_p.__class__ is not float or dropout_p or is_causal.__class__ is not bool:
        return None
    if enable_gqa.__class__ is not bool or not (scale is None or scale.__class__ is float):
        return None
    if torch.compiler.is_compiling() or looked_on():
        return None
    gradients = torch.is_grad_enabled()
    try:
        return (
            _layout(query, gradients), _layout(key, gradients), _layout(value, gradients),
            None if attn_mask is None else _layout(attn_mask, gradients),
            None if sinks is None else _layout(sinks, gradients),
            is_causal, scale, enable_gqa, torch.get_num_threads(), engines.preferred(),
            tuple([_asked(readout) for readout in readouts]),
        )  # fmt: skip
    except (_UnusualError, RuntimeError):  # torch's own: a sparse or nested tensor has no strides
        return None


@dataclass(frozen=True)
class Known:
    """A call that was seen: how it is run again, and the problem it posed, without its tensors."""

    repeat: engines.Repeat
    problem: Problem
    shaped: Callable[[Tensor], Tensor]

    def problem_of(self, call: Arguments) -> Problem:
        """The problem that a call with this signature poses, if it has no attn_mask; with a heads dimension."""
        query, key, value = (t if t.ndim > 2 else t[None] for t in call[:3])
        return replace(self.problem, query=query, key=key, value=value, sinks=call.sinks, readouts=call.readouts)


def find(signature: Hashable | None) -> Known | None:
    """What is known of calls with this signature."""
    return None if signature is None else _known.get(signature)


def remember(
    signature: Hashable | None,
    call: Arguments,
    problem: Problem,
    shaped: Callable[[Tensor], Tensor],
    result: Result,
) -> None:
    """Keep how a call can be run again, if its engine can, and forget the oldest beyond `MOST`.

    Args:
        signature: the call's; nothing is kept without.
        call: its arguments; nothing is kept of a query, key and value that differ in their rank.
        problem: what it posed.
        shaped: what gives its results the inputs' rank again.
        result: what the engine gave.

    """
    if signature is None or result.again is None or not call.query.ndim == call.key.ndim == call.value.ndim:
        return
    repeat = result.again(tuple(shaped(result.output).shape))
    nothing = torch.empty(0, device="cpu")
    bare = Problem(nothing, nothing, nothing, problem.batch, problem.heads, problem.scale)
    bare = bare if problem.loads else replace(bare, score=problem.score, mask=problem.mask)
    forget_oldest(_known, MOST - 1)
    _known[signature] = Known(repeat, bare, shaped)


class _UnusualError(Exception):
    """A tensor is not simply numbers in memory."""


def _layout(tensor: Tensor, gradients: bool) -> Hashable:
    if tensor.__class__ not in PLAIN or not tensor.is_cpu or tensor.is_neg() or (gradients and tensor.requires_grad):
        raise _UnusualError
    return tensor.dtype, tensor.shape, tensor.stride()


def _asked(readout: Readout) -> Hashable:
    """What a readout asks for; not one with a function."""
    if readout.expressions:
        raise _UnusualError
    return readout.__class__, readout.name, readout.size, readout.numbers


def looked_on() -> bool:
    """Whether somebody must see torch's operations, or changes what they compute."""
    return (
        torch.is_autocast_enabled("cpu")
        or _functorch.maybe_current_level() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    )

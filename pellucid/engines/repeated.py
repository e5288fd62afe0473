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
from pellucid.problem import Problem
from pellucid.readouts import Readout
from pellucid.tensors.once import forget_oldest

MOST = 512
PLAIN = (Tensor, Parameter)
_known: dict[Hashable, Known] = {}


def signature(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    sinks: Tensor | None,
    readouts: tuple[Readout, ...] = (),
) -> Hashable | None:
    """What calls have in common that can be run alike; None for a call that must be looked at.

    Args:
        query: see `attention`, as for all but the last.
        key: see `attention`.
        value: see `attention`.
        attn_mask: see `attention`.
        dropout_p: see `attention`.
        is_causal: see `attention`.
        scale: see `attention`.
        enable_gqa: see `attention`.
        sinks: see `attention`.
        readouts: what is to be read; nothing, by `attention`.

    Returns:
        Of each tensor dtype, shape and strides, and the rest as it is, with the number of threads and the engine.

    """
    if dropout_p.__class__ is not float or dropout_p or is_causal.__class__ is not bool:
        return None
    if enable_gqa.__class__ is not bool or not (scale is None or scale.__class__ is float) or looked_on():
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

    def problem_of(
        self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, readouts: tuple[Readout, ...]
    ) -> Problem:
        """The problem that a call with this signature poses, if it has no attn_mask.

        Args:
            query: see `attention`, as for those that follow.
            key: see `attention`.
            value: see `attention`.
            sinks: see `attention`.
            readouts: what is to be read.

        Returns:
            With a heads dimension in query, key and value.

        """
        query, key, value = (t if t.ndim > 2 else t[None] for t in (query, key, value))
        return replace(self.problem, query=query, key=key, value=value, sinks=sinks, readouts=readouts)


def find(signature: Hashable) -> Known | None:
    """What is known of calls with this signature."""
    return _known.get(signature)


def remember(signature: Hashable, problem: Problem, shaped: Callable[[Tensor], Tensor], output: Tensor) -> None:
    """Keep how a call can be run again, if its engine can, and forget the oldest beyond `MOST`.

    Args:
        signature: the call's.
        problem: what it posed.
        shaped: what gives its results the inputs' rank again.
        output: what it returned.

    """
    repeat = engines.repeat(problem, tuple(output.shape))
    if repeat is None:
        return
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
    return readout.__class__, readout.name, readout.size


def looked_on() -> bool:
    """Whether somebody must see torch's operations, or changes what they compute."""
    return (
        torch.is_autocast_enabled("cpu")
        or _functorch.maybe_current_level() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    )

"""Whether a call is one of several ranks; torch.distributed is imported only then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid.arguments import Arguments, describe
from pellucid.observation import Observation
from pellucid.problem import Problem


class Sharing(NamedTuple):
    """Whose sequences the calls in a context are of: the ranks, and which positions each has."""

    group: Any
    layout: Any


_sharing: ContextVar[Sharing | None] = ContextVar("pellucid_sharing", default=None)
_open = 0  # how many are set in all threads: torch.compile guards a number, and cannot follow a ContextVar
_lock = Lock()


@contextmanager
def sharing(how: Sharing) -> Iterator[None]:
    """Calls inside the `with` are of sequences that lie on several ranks."""
    token = _sharing.set(how)
    _count(1)
    try:
        yield
    finally:
        _count(-1)
        _sharing.reset(token)


def _count(more: int) -> None:
    global _open
    with _lock:
        _open += more


def sharing_here() -> Sharing | None:
    """Whose sequences calls are of, in this context; None of a process's own. Not of a graph."""
    return _sharing.get()


def is_shared_here() -> bool:
    """Whether calls are of sequences that lie on several ranks, in this context."""
    if torch.compiler.is_compiling():
        if not _open:
            return False
        torch._dynamo.graph_break(msg="inside context_parallel ranks compare what they are asked, which no graph holds")
    return _sharing.get() is not None


def is_sharded(call: Arguments) -> bool:
    """Whether a call is one of several ranks: of DTensors, or in a context of `context_parallel`."""
    module = sys.modules.get("torch.distributed.tensor")  # without it there is neither
    if module is None:
        return False
    return is_shared_here() or any(isinstance(tensor, module.DTensor) for tensor in call[:3])


def is_of_dtensors(call: Arguments) -> bool:
    """Whether a call is one of DTensors, and of no context in which sequences are shared."""
    return is_sharded(call) and not is_shared_here()


def sharded(call: Arguments, asked: list[Any] | None = None, *, lone: bool = True) -> tuple[Tensor, Observation | None]:
    """A call of several ranks: the output, and what was seen.

    Args:
        call: the arguments, its readouts not looked at.
        asked: the readouts argument of `observe`, in a list; None if nothing is to be seen.
        lone: see `sequence.shared`.

    """
    how = _sharing.get() if is_shared_here() else None
    if how is None:
        from pellucid.distributed import placements

        return placements.shared(call, asked)
    from pellucid.distributed import sequence

    keys = how.layout if isinstance(how.layout, str) else None
    return sequence.shared(call, how.group, how.layout, keys, asked, lone=lone)


def positions_here(length: int, device: torch.device) -> Tensor | None:
    """Where this rank's tokens, so many, stand in a sequence that lies on several ranks; None of a process's own."""
    if not is_shared_here():
        return None
    from pellucid.distributed import sequence

    how = _sharing.get()
    assert how is not None
    return sequence.positions(length, how.group, how.layout).to(device)


def output_of_all(problem: Problem) -> Tensor:
    """The output of this rank's queries of a problem that lies on several ranks, [*batch, heads, queries, dim]."""
    from pellucid.distributed import sequence

    how = _sharing.get()
    assert how is not None
    return sequence.output_of(problem, how.group, how.layout)


def posed(call: Arguments) -> tuple[Problem, str]:
    """A call of several ranks as a problem, and in words how keys and values come together; no rank is asked."""
    from pellucid.distributed import ring

    if is_shared_here():
        return describe(call)[0], f"keys and values: gather, or ring from {ring.LARGE >> 20} MiB on"
    from pellucid.distributed import placements

    placements.checked(call)
    tensors, _, whole, _ = placements.whole_of(call)
    plan = placements.plan_of(whole, tensors)
    if not plan.is_along_sequence:
        return whole, "keys and values: each rank has those that it needs"
    if not plan.can_travel(*tensors[1:]):
        return whole, "keys and values: gather, for they do not lie as the queries do"
    reason = ring.why_not(whole, placements.followed(whole, tensors))
    if ring.travels(whole, placements.followed(whole, tensors)):
        return whole, "keys and values: ring"
    return whole, f"keys and values: gather, for {reason or f'they are less than {ring.LARGE >> 20} MiB'}"

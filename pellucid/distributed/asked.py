"""Whether a call is one of several ranks; torch.distributed is imported only then."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pellucid.arguments import Arguments, describe
from pellucid.observation import Observation
from pellucid.problem import Problem

if TYPE_CHECKING:
    from pellucid.distributed.sequence import Posed


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


def is_shared_here() -> bool:
    """Whether calls are of sequences that lie on several ranks, in this context."""
    if torch.compiler.is_compiling():
        if not _open:
            return False
        torch._dynamo.graph_break(msg="inside context_parallel ranks compare what they are asked, which no graph holds")
    return _sharing.get() is not None


def shared_here() -> Sharing | None:
    """Whose sequences the calls in this context are of; None where they are a rank's own."""
    return _sharing.get()


def is_sharded(call: Arguments) -> bool:
    """Whether a call is one of several ranks: of DTensors, or in a context of `context_parallel`."""
    module = sys.modules.get("torch.distributed.tensor")  # without it there is neither
    if module is None:
        return False
    return is_shared_here() or any(isinstance(tensor, module.DTensor) for tensor in call[:3])


def is_of_dtensors(call: Arguments) -> bool:
    """Whether a call is one of DTensors, and of no context in which sequences are shared."""
    return is_sharded(call) and not is_shared_here()


def sharded(call: Arguments, asked: list[Any] | None = None) -> tuple[Tensor, Observation | None]:
    """A call of several ranks: the output, and what was seen if readouts, the argument of `observe`, are asked."""
    how = _sharing.get() if is_shared_here() else None
    if how is None:
        from pellucid.distributed import placements

        return placements.shared(call, asked)
    from pellucid.distributed import sequence

    return sequence.shared(call, how.group, how.layout, _of_keys(how), asked)


def _of_keys(how: Sharing) -> Any:
    """The layout of keys, which in cross-attention are of another sequence."""
    return how.layout if isinstance(how.layout, str) else None


def agreed_here(call: Arguments | Problem, watched: Sequence[str] = ()) -> Posed:
    """A call inside `context_parallel` as one of the whole sequence, on which all ranks agree.

    Args:
        call: of this rank's queries and keys, and the functions of all.
        watched: in words what is read of it.

    """
    from pellucid.distributed import sequence

    how = _sharing.get()
    assert how is not None
    if isinstance(call, Problem):
        return sequence.agreed_problem(call, how.group, how.layout, watched)
    return sequence.agreed(call, how.group, (how.layout, _of_keys(how)), watched=watched)


def spans_here(length: int) -> Sequence[range]:
    """Inside `context_parallel`, the stretches of positions that this rank has, as many as `length`; all ranks ask."""
    from pellucid.distributed import sequence

    how = _sharing.get()
    assert how is not None
    return sequence.own_spans(how.group, how.layout, length)


def output_of_all(problem: Problem) -> Tensor:
    """The output of this rank's queries of a problem that lies on several ranks, [*batch, heads, queries, dim]."""
    return agreed_here(problem).computed(observed=False)[0]


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

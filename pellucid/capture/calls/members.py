"""Calls inside transforms of torch.func, as plain ones: vmap's taken apart into its members, gradients left behind.

What a transform wraps is dead once it ends; what is read must outlive it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from torch import Tensor
from torch._C import _functorch
from torch.autograd.forward_ad import unpack_dual

from pellucid.capture.calls.call import Call
from pellucid.language.shift import with_tensors
from pellucid.tensors.transformed import is_transformed

Change = Callable[[Tensor], Tensor]


def is_inside(call: Call) -> bool:
    """Whether a transform looks through what a call attends to."""
    return any(map(is_transformed, (call.query, call.key, call.value)))


def members(call: Call) -> Iterator[Call]:
    """The call's members, one where it has no vmap around it. Raises ValueError where there are vmaps in a vmap."""
    call = _changed(call, _unwrapped)
    stacked = [tensor for tensor in _tensors(call) if _functorch.is_batchedtensor(tensor)]
    if not stacked:
        yield call
        return
    if any(is_transformed(_functorch.get_unwrapped(tensor)) for tensor in stacked):
        raise ValueError("it runs in torch.func.vmap inside another transform")
    first = stacked[0]
    for place in range(_functorch.get_unwrapped(first).shape[_functorch.maybe_get_bdim(first)]):
        yield _changed(call, partial(_member, place))


def _unwrapped(tensor: Tensor) -> Tensor:
    """The tensor without the wrappers of gradients and tangents that lie outermost."""
    while _functorch.is_gradtrackingtensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor if _functorch.is_functorch_wrapped_tensor(tensor) else unpack_dual(tensor).primal


def _member(place: int, tensor: Tensor) -> Tensor:
    if not _functorch.is_batchedtensor(tensor):
        return tensor
    return _functorch.get_unwrapped(tensor).select(_functorch.maybe_get_bdim(tensor), place)


def _tensors(call: Call) -> list[Tensor]:
    found: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _changed(call, noted)
    return found


def _changed(call: Call, change: Change) -> Call:
    """The call with each of its tensors changed."""

    def of(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else change(tensor)

    return replace(
        call, query=change(call.query), key=change(call.key), value=change(call.value), sinks=of(call.sinks),
        padded_queries=of(call.padded_queries), padded_keys=of(call.padded_keys),
        score=with_tensors(call.score, change), mask=with_tensors(call.mask, change),
    )  # fmt: skip

"""What ranks send one another: shards of a sequence, sums of gradients, and whether they agree on a call at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.distributed.layout import Layout

Group = Any  # dist.ProcessGroup, or None for all ranks

# Newer versions of torch warn of the older names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class LostRankError(RuntimeError):
    """Another rank has died, or left the call, before it sent what this one waits for."""


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Say what was waited for where a rank is not reached. Raises LostRankError."""
    try:
        yield
    except RuntimeError as error:  # which dist.DistBackendError and its kin derive from
        if isinstance(error, LostRankError):
            raise
        raise LostRankError(
            f"attention: {what}, and a rank could not be reached; it died, or has not come to the same call: {error}"
        ) from error


def gathered(local: Sequence[Tensor], layout: Layout, group: Group) -> tuple[Tensor, ...]:
    """The whole sequences, [..., length, dim], of each rank's own positions [..., local, dim]; differentiable.

    What their gradients are on each rank is summed over the ranks, all at once.
    """
    whole: tuple[Tensor, ...] = _Gathered.apply(layout, group, *local)
    return whole


def relaid(local: Tensor, before: Layout, after: Layout, group: Group) -> Tensor:
    """A rank's positions, [..., positions, dim], of a sequence that is to lie in another layout; differentiable.

    Args:
        local: the positions that it has.
        before: where the sequence lies.
        after: where it is to lie.
        group: of the ranks.

    """
    if before == after:
        return local
    (whole,) = gathered((local,), before, group)
    spans = after.spans[dist.get_rank(group)]
    return torch.cat([whole.narrow(-2, span.start, len(span)) for span in (*spans, range(0))], -2)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layout: Layout, group: Group, *local: Tensor) -> tuple[Tensor, ...]:
        ctx.layout, ctx.group = layout, group
        return tuple(_all_gathered(local, layout, group))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, *_Scattered.apply(ctx.layout, ctx.group, *gradients)


class _Scattered(torch.autograd.Function):
    """Each rank's positions of sums over the ranks."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, group: Group, *whole: Tensor) -> tuple[Tensor, ...]:
        ctx.layout, ctx.group = layout, group
        return tuple(_reduce_scattered(tensor, layout, group) for tensor in whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, *gathered(gradients, ctx.layout, ctx.group)


def _all_gathered(local: Sequence[Tensor], layout: Layout, group: Group) -> list[Tensor]:
    own = [_padded(tensor, layout)[None] for tensor in local]
    every = [tensor.new_empty(layout.ranks, *tensor.shape[1:]) for tensor in own]
    with reaching("keys and values are gathered"):
        asked = [_all_gather(*both, group, async_op=True) for both in zip(every, own, strict=True)]
        for work in asked:
            work.wait()
    if not layout.pieces:
        return [tensor.clone() for tensor in local]
    return [torch.cat([e[r, ..., at : at + len(span), :] for r, at, span in layout.pieces], -2) for e in every]


def _padded(local: Tensor, layout: Layout) -> Tensor:
    """As many positions as the rank has that has most, contiguous."""
    if min(layout.lengths) == max(layout.lengths):
        return local.contiguous()
    padded = local.new_zeros(*local.shape[:-2], max(layout.lengths), local.shape[-1])
    padded[..., : local.shape[-2], :] = local
    return padded


def _reduce_scattered(whole: Tensor, layout: Layout, group: Group) -> Tensor:
    dtype = torch.promote_types(whole.dtype, torch.float32)  # in which the parts are added up
    shape = (layout.ranks, *whole.shape[:-2], max(layout.lengths), whole.shape[-1])
    every = whole.new_zeros(shape, dtype=dtype)
    for rank, start, span in layout.pieces:
        every[rank, ..., start : start + len(span), :] = whole[..., span.start : span.stop, :]
    own = every.new_empty(1, *shape[1:])
    with reaching("gradients of keys and values are summed"):
        _reduce_scatter(own, every, group=group)
    return own[0, ..., : layout.lengths[dist.get_rank(group)], :].to(whole.dtype)


class Joining(NamedTuple):
    """How what each rank has of a reading becomes the whole: "sum", "max", or None of what stays each rank's own."""

    by: Sequence[str | None]
    group: Group


def joined(joining: Joining, results: Sequence[Tensor], reached: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A call's results, those of all ranks joined: one node of autograd's graph.

    Whatever of them a rank's loss is made of, backward then asks the ranks for the same, in the same order; the loss is
    the sum of the ranks'. Of equal numbers that are the largest the first rank's has the gradient.

    Args:
        joining: how each is joined.
        results: this rank's.
        reached: what backward goes to whatever the results depend on.

    """
    made: tuple[Tensor, ...] = _Joined.apply(joining, len(results), *results, *reached)
    return made


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joining: Joining, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        results, ctx.reached = tensors[:count], list(map(_kind, tensors[count:]))
        made = [
            tensor.view_as(tensor) if by is None else reduced(tensor, by, joining.group)
            for tensor, by in zip(results, joining.by, strict=True)
        ]
        ctx.joining, ctx.results = joining, list(map(_kind, results))
        ctx.mine = [
            is_first(own, whole, joining.group) if by == "max" and whole.is_floating_point() else None
            for own, whole, by in zip(results, made, joining.by, strict=True)
        ]
        ctx.mark_non_differentiable(*(tensor for tensor in made if not tensor.is_floating_point()))
        ctx.set_materialize_grads(False)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        group = ctx.joining.group
        shared = [place for place, by in enumerate(ctx.joining.by) if by is not None]
        found = list(gradients)
        asked = torch.tensor([int(gradients[place] is not None) for place in shared], device=_device(group))
        wanted = reduced(asked, "max", group).tolist() if shared else []
        for place, any_rank in zip(shared, wanted, strict=True):
            if any_rank:
                own = gradients[place]
                total = summed(_zeros(ctx.results[place]) if own is None else own, group)
                found[place] = total if ctx.mine[place] is None else total * ctx.mine[place]
        return None, None, *found, *map(_zeros, ctx.reached)


def reduced(local: Tensor, by: str, group: Group) -> Tensor:
    """The sum over the ranks, or what is largest, on each."""
    whole = local.detach().clone(memory_format=torch.contiguous_format)
    with reaching("readings are joined"):
        dist.all_reduce(whole, dist.ReduceOp.MAX if by == "max" else dist.ReduceOp.SUM, group)
    return whole


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _zeros(kind: tuple[torch.Size, torch.dtype, torch.device]) -> Tensor:
    shape, dtype, device = kind
    return torch.zeros(shape, dtype=dtype, device=device)


def summed(local: Tensor, group: Group) -> Tensor:
    """The sum over the ranks, on each; differentiable, the loss being the sum of the ranks' own."""
    whole: Tensor = _Summed.apply(local, group)
    return whole


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return reduced(local, "sum", group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return summed(gradient, ctx.group), None


def is_first(own: Tensor, whole: Tensor, group: Group) -> Tensor:
    """Where this rank is the first that has what is largest."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    return reduced(torch.where(own == whole, -rank, -ranks), "max", group) == -rank


def once_followed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, whose gradients say in words, to whoever asks for theirs, that they have none."""
    return _Once.apply(*tensors) if any(tensor.requires_grad for tensor in tensors) else tensors


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Refusing.apply(len(gradients), *gradients, *ctx.saved_tensors)


class _Refusing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The gradients, which come of the tensors behind them."""
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(
            "attention: keys and values have travelled in a ring, which has no second derivatives; gather them, "
            'with pellucid.distributed.sending("gather")'
        )


def agree(groups: Sequence[Group], fault: Exception | None, told: Mapping[str, Any]) -> None:
    """Raise on every rank unless all take the call and tell the same of it.

    Args:
        groups: of the ranks, one for each dimension of a mesh.
        fault: why this rank does not take the call.
        told: what must be the same, by the argument that it is of; each is compared by its text.

    Raises:
        LostRankError: a rank is not reached.
        ValueError: another rank does not take the call, or they tell different things.

    """
    hashes = [_hashed(repr(value)) for value in told.values()]
    elsewhere = False
    for group in groups:  # each to its end, for others wait in the next
        every = numbers_of_all(group, [int(fault is not None), int(elsewhere), *hashes])
        refusing = [rank for rank, numbers in enumerate(every) if numbers[0]]
        if refusing:
            fault, elsewhere = fault or _refusal(refusing), True
            continue
        elsewhere = elsewhere or any(numbers[1] for numbers in every)
        columns = list(zip(*every, strict=True))[2:]
        different = [name for name, column in zip(told, columns, strict=True) if len(set(column)) > 1]
        if different:
            fault = _disagreement(group, different[0], told[different[0]])
    if fault is None and elsewhere:
        fault = ValueError("attention: ranks of another part of the mesh do not agree; their error says on what")
    if fault is not None:
        raise fault


def refuse_together(fault: Exception | None, refusing: Sequence[int]) -> None:
    """Raise this rank's own fault, or a ValueError that says which ranks have one."""
    if fault is not None:
        raise fault
    if refusing:
        raise _refusal(refusing)


def _refusal(ranks: Sequence[int]) -> ValueError:
    listed = ", ".join(map(str, ranks))
    return ValueError(f"attention: rank {listed} refuses its own arguments, so no rank computes; its error says why")


def _disagreement(group: Group, name: str, value: Any) -> ValueError:
    texts: list[Any] = [None] * dist.get_world_size(group)
    with reaching("the ranks compare what they are asked"):
        dist.all_gather_object(texts, repr(value)[:200], group)
    of_ranks = ", ".join(f"rank {rank} has {text}" for rank, text in enumerate(texts))
    return ValueError(f"{name}: the ranks of a sharded call must give the same; {of_ranks}")


def _hashed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _device(group: Group) -> torch.device:
    """Of numbers that ranks tell one another: the CPU, unless the group sends nothing from there."""
    sends = dist.get_backend_config(group).split(",")
    kinds = [kind.partition(":")[0] for kind in sends]
    return torch.device("cpu" if "cpu" in kinds else kinds[0])


def numbers_of_all(group: Group, numbers: list[int]) -> list[list[int]]:
    """What each rank says, as many whole numbers from all."""
    own = torch.tensor([numbers], dtype=torch.int64, device=_device(group))
    every = own.new_empty(dist.get_world_size(group), len(numbers))
    with reaching("the ranks compare what they are asked"):
        _all_gather(every, own, group)
    found: list[list[int]] = every.tolist()
    return found

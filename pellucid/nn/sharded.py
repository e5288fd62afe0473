"""Projections that lie on several ranks, as ColwiseParallel of torch.distributed leaves them: heads as DTensors.

Whatever a sharded projection gives, its rank's own part or a DTensor, is a DTensor in the layer, so that heads keep
their numbers in the whole layer. torch.distributed is imported only where a DTensor is.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")  # without it there is none
    return module is not None and isinstance(tensor, module.DTensor)


def placements_of(tensor: Tensor) -> Any:
    """How a DTensor lies on its ranks; None of another tensor."""
    return tensor.placements if is_sharded(tensor) else None  # type: ignore[attr-defined]


def as_sharded(name: str, x: Tensor, projection: nn.Linear) -> Tensor:
    """What a projection of sharded weights gave, as a DTensor; what another gave as it is.

    Args:
        name: the projection's.
        x: its output, [..., out_features or this rank's part of them].
        projection: the projection.

    Raises:
        ValueError: a rank's part is none that the weights' placements say.

    """
    weight = projection.weight
    if is_sharded(x) or not is_sharded(weight):
        return x
    from torch.distributed.tensor import Replicate, Shard

    placements = [Shard(x.ndim - 1) if place.is_shard(0) else Replicate() for place in weight.placements]  # type: ignore[attr-defined]
    if x.shape[-1] == projection.out_features:
        placements = [Replicate() for _ in placements]
    elif x.shape[-1] != weight.to_local().shape[0]:  # type: ignore[attr-defined]
        raise ValueError(
            f"{name}: gave {x.shape[-1]} of its {projection.out_features} numbers a token, and this rank's part of its "
            f"weight has {weight.to_local().shape[0]}; shard it by ColwiseParallel()"  # type: ignore[attr-defined]
        )
    return _placed(x, weight, placements, (*x.shape[:-1], projection.out_features))


def replicated(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has, for operations with `like`: a DTensor where that is one.

    What `tensor` is given of gradients is summed over the ranks.
    """
    if not is_sharded(like) or is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import Replicate

    return _placed(tensor, like, [Replicate()] * like.device_mesh.ndim, tensor.shape)  # type: ignore[attr-defined]


def split(name: str, x: Tensor, heads: int, head_dim: int) -> Tensor:
    """A DTensor `[..., length, heads * head_dim]` as `[..., heads, length, head_dim]`, sharded by heads if by width.

    Args:
        name: what it is the output of.
        x: the DTensor.
        heads: of the whole layer.
        head_dim: width of a head.

    Raises:
        ValueError: a rank has a part of a head.

    """
    width = x.ndim - 1
    x, local = _local(x)
    if local.shape[-1] % head_dim:
        ranks = x.device_mesh.size()  # type: ignore[attr-defined]
        raise ValueError(
            f"{name}: its {heads} heads do not lie whole on {ranks} ranks: this one has {local.shape[-1]} numbers, and "
            f"a head {head_dim}; leave it out of the plan, and each rank has all of them"
        )
    made = local.unflatten(-1, (local.shape[-1] // head_dim, head_dim)).transpose(-3, -2)
    places = {width: width - 1, width - 1: width}  # of a dimension, afterwards
    return _placed(made, x, _moved(x, places), (*x.shape[:-2], heads, x.shape[-2], head_dim))


def merged(x: Tensor) -> Tensor:
    """A DTensor `[..., heads, length, head_dim]` as `[..., length, heads * head_dim]`, sharded by width if by heads."""
    heads = x.ndim - 3
    x, local = _local(x)
    made = local.transpose(-3, -2).flatten(-2)
    shape = (*x.shape[:-3], x.shape[-2], x.shape[-3] * x.shape[-1])
    return _placed(made, x, _moved(x, {heads: heads + 1, heads + 1: heads}), shape)


def alike(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, all of them DTensors if one is: what the others are, every rank has."""
    like = next((tensor for tensor in (query, key, value) if is_sharded(tensor)), query)
    query, key, value = (replicated(tensor, like) for tensor in (query, key, value))
    return query, key, value


def back(output: Tensor, projection: nn.Linear | None) -> Tensor:
    """A layer's output, of attention's, a DTensor; a DTensor where no projection follows.

    Raises:
        ValueError: a projection of plain weights, and heads that a rank has some of.

    """
    x = merged(output)
    if projection is None:
        return x
    if is_sharded(projection.weight):
        result: Tensor = projection(x)
        return result
    if any(place.is_shard(x.ndim - 1) for place in x.placements):  # type: ignore[attr-defined]
        raise ValueError(
            "output_projection: its weight lies whole on each rank, and of the heads each has some; shard it by "
            "RowwiseParallel()"
        )
    whole: Tensor = projection(own_part(x))
    return whole


def own_part(x: Tensor) -> Tensor:
    """A rank's own part of a DTensor."""
    return _local(x)[1]


def like_it(local: Tensor, like: Tensor) -> Tensor:
    """A rank's part of what lies as `like` does, but for the length, which is not sharded, as a DTensor."""
    shape = (*like.shape[:-2], local.shape[-2], like.shape[-1])
    return _placed(local, like, like.placements, shape)  # type: ignore[attr-defined]


def _local(x: Any) -> tuple[Any, Tensor]:
    """A DTensor without sums that are still to be made, and this rank's part of it; differentiable."""
    from torch.distributed.tensor import Replicate

    whole = [Replicate() if place.is_partial() else place for place in x.placements]
    if list(x.placements) != whole:
        x = x.redistribute(placements=whole)
    return x, x.to_local(grad_placements=whole)


def _moved(x: Any, places: dict[int, int]) -> list[Any]:
    from torch.distributed.tensor import Shard

    return [Shard(places.get(place.dim, place.dim)) if place.is_shard() else place for place in x.placements]


def _placed(local: Tensor, like: Any, placements: Any, shape: Any) -> Tensor:
    from torch.distributed.tensor import DTensor

    sizes = torch.Size(shape)
    stride = tuple(sizes[dim + 1 :].numel() for dim in range(len(sizes)))
    return DTensor.from_local(local, like.device_mesh, placements, run_check=False, shape=sizes, stride=stride)

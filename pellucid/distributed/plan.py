"""What each rank computes of a call of DTensors, and where tensors must lie for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from pellucid.distributed.region import Region
from pellucid.language import Expression
from pellucid.problem import Problem
from pellucid.tensors.once import once

# What a dimension of the mesh divides, as a dimension of query; those of the batch come before.
QUERIES, HEADS, LAST_BATCH = -2, -3, -4
Role = int | None


def roles_of(query: DTensor, whole: Problem) -> tuple[Role, ...]:
    """What each dimension of the mesh divides; None where every rank computes the same."""
    sizes = (*whole.batch, whole.heads, whole.q_len)

    def role(placement: Placement) -> Role:
        if type(placement) is not Shard:
            return None
        dim = placement.dim - query.ndim
        return None if dim == -1 or query.shape[dim] != sizes[dim + 1] else dim

    return tuple(map(role, query.placements))


@dataclass(frozen=True)
class Plan:
    """Which part of a call this rank computes, and where tensors must lie for that.

    Attributes:
        whole: the call of all ranks.
        mesh: of its DTensors.
        roles: see `roles_of`.
        flat: whether the call has no dimension of heads.

    """

    whole: Problem
    mesh: DeviceMesh
    roles: tuple[Role, ...]
    flat: bool

    @once
    def region(self) -> Region:
        """The part of this rank."""
        batch = tuple(self._own(size, dim - len(self.whole.batch) - 3) for dim, size in enumerate(self.whole.batch))
        return Region(self.whole, batch, self._own(self.whole.heads, HEADS), self._own(self.whole.q_len, QUERIES))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the dimensions that roles divide, the last for QUERIES."""
        return (*self.whole.batch, self.whole.heads, self.whole.q_len)

    def groups(self, *roles: Role) -> list[Any]:
        """The groups of ranks that have other parts than this one, but of these roles."""
        return [self.mesh.get_group(dim) for dim, role in enumerate(self.roles) if role not in (None, *roles)]

    def _own(self, length: int, role: Role) -> range:
        """The rank's stretch of a dimension, cut as DTensor cuts."""
        start, stop = 0, length
        for dim, own in enumerate(self.roles):
            if own == role:
                size = -(-(stop - start) // self.mesh.size(dim))
                first = min(stop, start + size * self.mesh.get_local_rank(dim))
                start, stop = first, min(stop, first + size)
        return range(start, stop)

    def _local(self, tensor: DTensor, dims: Mapping[Role, int]) -> Tensor:
        """The rank's part of a tensor, sharded as the roles' dimensions of it say and else whole; differentiable."""
        placements: list[Placement] = []
        gradients: list[Placement] = []
        for role in self.roles:
            if role in dims and role is not None:
                placements.append(Shard(dims[role]))
                gradients.append(Shard(dims[role]))
            else:
                placements.append(Replicate())
                gradients.append(Replicate() if role is None else Partial())
        return tensor.redistribute(self.mesh, placements).to_local(grad_placements=gradients)

    def query(self, query: DTensor) -> Tensor:
        """The rank's queries, with a dimension of heads."""
        local = self._local(query, {role: query.ndim + role for role in self.roles if role is not None})
        return local if local.ndim > 2 else local[None]

    @property
    def along(self) -> int | None:
        """The one dimension of the mesh along which sequences lie; None where there is none, or more."""
        found = [dim for dim, role in enumerate(self.roles) if role == QUERIES]
        return found[0] if len(found) == 1 else None

    @property
    def along_sequence(self) -> list[Any]:
        """The groups of ranks that have other queries than this one."""
        return [self.mesh.get_group(dim) for dim, role in enumerate(self.roles) if role == QUERIES]

    @property
    def is_along_sequence(self) -> bool:
        """Whether queries lie along the sequence on any dimension of the mesh."""
        return QUERIES in self.roles

    def can_travel(self, *tensors: DTensor) -> bool:
        """Whether keys lie along the sequence as queries do, so that each rank may send its own on."""
        return self.along is not None and all(
            [dim for dim, own in enumerate(tensor.placements) if own == Shard(tensor.ndim - 2)] == [self.along]
            for tensor in tensors
        )

    def keys(self, tensor: DTensor, some: bool = False) -> Tensor:
        """The keys, or their values, of the rank's heads and sequences, with a dimension of heads.

        Args:
            tensor: of all ranks.
            some: whether those alone that lie on this rank, which `can_travel`.

        """
        dims: dict[Role, int] = {QUERIES: tensor.ndim - 2} if some else {}
        for role in self.roles:
            if role is not None and role < QUERIES and tensor.ndim >= -role and self._follows(tensor, role):
                dims[role] = tensor.ndim + role
        local = self._local(tensor, dims)
        local = local if local.ndim > 2 else local[None]
        return local if HEADS in dims or HEADS not in self.roles else self._of_heads(local)

    def _follows(self, tensor: DTensor, role: int) -> bool:
        """Whether each rank's part of a dimension of keys is what its part of the queries' needs."""
        size, whole = tensor.shape[role], self.sizes[role + 1]
        if size == whole:
            return True
        ranks = torch.Size(self.mesh.size(dim) for dim, own in enumerate(self.roles) if own == role).numel()
        return role == HEADS and size > 1 and size % ranks == 0 and whole % ranks == 0

    def _of_heads(self, local: Tensor) -> Tensor:
        """The key heads of the rank's query heads, of all key heads."""
        kv_heads, own = local.shape[-3], self.region.heads
        if kv_heads == 1:
            return local
        shared = [head // (self.whole.heads // kv_heads) for head in own]
        needed = sorted(set(shared))
        if shared == [head for head in needed for _ in range(len(own) // max(len(needed), 1))]:
            return local.narrow(-3, needed[0] if needed else 0, len(needed))
        return local.index_select(-3, torch.tensor(shared, device=local.device))

    def own(self, tensor: Tensor, indices: Sequence[Expression]) -> tuple[Tensor, frozenset[int]]:
        """A captured tensor as this rank has it; see `Region.problem`."""
        if not isinstance(tensor, DTensor):
            return tensor, frozenset()
        sizes = {"h": (HEADS, self.whole.heads), "q": (QUERIES, self.whole.q_len)}
        if len(self.whole.batch) == 1:
            sizes["b"] = (LAST_BATCH, self.whole.batch[0])
        dims: dict[Role, int] = {}
        for dim, index in enumerate(indices):
            role, size = sizes.get(index.value, (None, 0)) if index.op == "input" else (None, 0)
            lies = [own == Shard(dim) for own in tensor.placements]
            if role is not None and tensor.shape[dim] == size and lies == [own == role for own in self.roles]:
                dims[role] = dim
        return self._local(tensor, dims), frozenset(dim for role, dim in dims.items() if role in self.roles)

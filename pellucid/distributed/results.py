"""What ranks computed of a call of DTensors, as DTensors again: each result sharded as the queries are, or the keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from pellucid.distributed.exchange import Group, is_first, reduced
from pellucid.distributed.parts import Parts
from pellucid.distributed.plan import HEADS, LAST_BATCH, QUERIES, Plan, Role
from pellucid.readouts import Readout
from pellucid.readouts.base import ColumnReadout


@dataclass(frozen=True)
class Results:
    """The results of a rank, and where each belongs.

    Attributes:
        plan: of the call.
        parts: what this rank computed.

    """

    plan: Plan
    parts: Parts

    def of_rows(self, local: Tensor, per_head: bool = True) -> Tensor:
        """A result for each query, [*batch, heads, queries, ...] or, if not `per_head`, of all heads summed."""
        batch = len(self.plan.whole.batch)
        dims = self._dims(batch) | {QUERIES: batch + per_head}
        if not per_head:
            del dims[HEADS]
        return self._of_all(local, dims, "sum", per_head)

    def reading(self, readout: Readout, key: DTensor) -> Any:
        """What a caller gets of a readout; sums over queries are sharded as `key` is, if they have a place for each."""
        result = self.parts.result(readout)
        if readout.joins_rows:
            groups = self.plan.groups(HEADS)
            return readout.map(result, lambda own: self._of_all(_Largest.apply(own, groups), {HEADS: 0}, None, False))
        if isinstance(readout, ColumnReadout):
            return self._of_columns(readout, result, key)
        return readout.map(result, lambda own: self.of_rows(own, readout.per_head))

    def _dims(self, batch: int) -> dict[Role, int]:
        """Where sequences and heads lie in a result that has both."""
        dims: dict[Role, int] = {HEADS: batch}
        for role in self.plan.roles:
            if role is not None and role < HEADS:
                dims[role] = role - LAST_BATCH + batch - 1
        return dims

    def _of_columns(self, readout: ColumnReadout, state: Tensor, key: DTensor) -> Any:
        dims, by = self._dims(len(self.plan.whole.batch)), readout.joined_by
        if by == "max":
            own = [
                group
                for group, role in zip(self.plan.groups(), filter(None, self.plan.roles), strict=True)
                if role == QUERIES
            ]
            state, by = _Largest.apply(state, own), None
        placed = self._laid(state, dims, by)
        keys = [
            Shard(placed.ndim - 1) if readout.of_keys and role == QUERIES and lies == Shard(key.ndim - 2) else own
            for role, lies, own in zip(self.plan.roles, key.placements, _without_partial(placed), strict=True)
        ]
        placed = placed.redistribute(placed.device_mesh, keys)
        finished = readout.finish(placed.to_local().clone(), self.parts.sizes)
        made = _from_local(finished, placed)
        return made.squeeze(0) if self.plan.flat else made

    def _of_all(self, local: Tensor, dims: Mapping[Role, int], by: str | None, of_heads: bool) -> Tensor:
        """A result of all ranks, joined where it is in parts."""
        placed = self._laid(local, dims, by)
        made = placed.redistribute(placed.device_mesh, _without_partial(placed))
        return made.squeeze(0) if self.plan.flat and of_heads else made

    def _laid(self, local: Tensor, dims: Mapping[Role, int], by: str | None) -> DTensor:
        """A rank's part of a result.

        Args:
            local: the part.
            dims: the dimension along which the parts of a role lie.
            by: how the parts of other roles are joined; None if all ranks have the same.

        """
        shape = list(local.shape)
        placements: list[Placement] = []
        for role in self.plan.roles:
            if role is None or (role not in dims and by is None):
                placements.append(Replicate())
            elif role in dims:
                shape[dims[role]] = self.plan.sizes[role + 1]
                placements.append(Shard(dims[role]))
            else:
                placements.append(Partial(by))
        return _dtensor(local, self.plan.mesh, placements, shape)


def _without_partial(tensor: DTensor) -> list[Placement]:
    return [Replicate() if isinstance(placement, Partial) else placement for placement in tensor.placements]


def _dtensor(local: Tensor, mesh: Any, placements: Any, shape: Any) -> DTensor:
    sizes = torch.Size(shape)
    stride = tuple(sizes[dim + 1 :].numel() for dim in range(len(sizes)))
    return DTensor.from_local(local.contiguous(), mesh, placements, run_check=False, shape=sizes, stride=stride)


def _from_local(local: Tensor, like: DTensor) -> DTensor:
    return _dtensor(local, like.device_mesh, like.placements, like.shape)


class _Largest(torch.autograd.Function):
    """The largest over ranks of each number, on each; the gradient goes to the first rank that has it."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, groups: list[Group]) -> Tensor:
        whole, ctx.mine = local, torch.ones_like(local, dtype=torch.bool)
        for group in groups:
            own, whole = whole, reduced(whole, "max", group)
            ctx.mine &= is_first(own, whole, group)
        return whole.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * ctx.mine, None

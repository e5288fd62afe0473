"""DTensors: what their placements say of a call, dimension of the mesh by dimension.

The query decides. Where it is sharded by sequences of the batch or by heads, ranks compute theirs alone; where it is
sharded along the sequence, its keys and values are gathered; where it is replicated, so is everything. Other tensors
are brought to where that wants them, as torch's own operators do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from pellucid.arguments import Arguments, as_autocast, check_tensors, checked_readouts, describe
from pellucid.distributed.exchange import agree, numbers_of_all
from pellucid.distributed.parts import Parts, computed
from pellucid.distributed.plan import Plan, roles_of
from pellucid.distributed.results import Results
from pellucid.distributed.seen import OfRank, SharedObservation
from pellucid.distributed.sequence import texts_of
from pellucid.observation import Observation
from pellucid.problem import Problem


def shared(call: Arguments, asked: list[Any] | None = None) -> tuple[Tensor, Observation | None]:
    """A call of DTensors: the output, and what was seen if readouts are asked, as DTensors.

    Args:
        call: the arguments; its readouts are not looked at.
        asked: the readouts argument of `observe`, in a list; None if nothing is to be seen.

    Raises:
        TypeError: as `attention`; a plain tensor among DTensors.
        ValueError: as `attention`; meshes that differ, ranks that do not agree on the call.

    """
    mesh = _mesh(call)
    call, whole, shaped = _whole(call, mesh, asked)
    plan = Plan(whole, mesh, roles_of(call.query, whole), max(t.ndim for t in call[:3]) == 2)
    query, key, value = plan.query(call.query), plan.keys(call.key), plan.keys(call.value)
    parts = computed([plan.region], query, key, value, plan.own)
    results = Results(plan, parts)
    output = results.of_rows(parts.output)
    if asked is None:
        return output, None
    readings = {"lse": results.of_rows(parts.lse)}
    for readout in whole.readouts:
        readings[readout.name] = results.reading(readout, call.key)
    of_rank = OfRank(parts, query.detach(), lambda: plan.keys(call.key).detach(), plan.own, plan.groups())
    return output, SharedObservation(whole, readings, shaped, of_rank)


def _mesh(call: Arguments) -> DeviceMesh:
    for name, tensor in (("query", call.query), ("key", call.key), ("value", call.value)):
        if not isinstance(tensor, DTensor):
            raise TypeError(f"{name}: a DTensor is needed, as query, key or value is one; got {type(tensor).__name__}")
        if tensor.device_mesh != call.query.device_mesh:
            raise ValueError(f"{name}: query's mesh is needed, {call.query.device_mesh}, got {tensor.device_mesh}")
    mesh: DeviceMesh = call.query.device_mesh
    return mesh


def _whole(
    call: Arguments, mesh: DeviceMesh, asked: list[Any] | None
) -> tuple[Arguments, Problem, Callable[[Tensor], Tensor]]:
    """The call, and as a problem whose query, key and value have sizes and no numbers; all ranks raise if one does."""
    fault: Exception | None = None
    whole = shaped = None
    try:
        query, key, value = map(as_autocast, call[:3])
        check_tensors(query, key, value)
        call = call._replace(query=query, key=key, value=value)
        if asked is not None:
            call = call._replace(readouts=checked_readouts(asked[0], Observation))
        sized = [tensor.to_local().new_empty(()).expand(tensor.shape) for tensor in (query, key, value)]
        whole, shaped = describe(call._replace(query=sized[0], key=sized[1], value=sized[2]))
        for tensor in (*whole.captured, *(() if whole.sinks is None else (whole.sinks,))):
            if tensor.requires_grad and not isinstance(tensor, DTensor):
                raise TypeError(
                    "attn_mask, sinks or a captured tensor: among DTensors one that needs a gradient must be one, "
                    f"got a plain tensor {list(tensor.shape)}"
                )
    except (TypeError, ValueError) as error:
        if torch.compiler.is_compiling():
            raise
        fault = error
    if not torch.compiler.is_compiling():
        groups = [mesh.get_group(dim) for dim in range(mesh.ndim)]
        agree(groups, fault, texts_of(whole, call[:3]))
        assert whole is not None
        if whole.dropout_p and not isinstance(whole.dropout_seed, Tensor):
            for group in groups:  # ranks that have the same must drop the same
                whole = replace(whole, dropout_seed=numbers_of_all(group, [int(whole.dropout_seed)])[0][0])
    assert whole is not None
    assert shaped is not None
    return call, whole, shaped


class Posed(NamedTuple):
    """A rank's part of a call of DTensors, to be computed by whoever asks."""

    plan: Plan
    problem: Problem  # of this rank's sequences, heads and queries, with all their keys

    def output(self, local: Tensor) -> Tensor:
        """A rank's output, [*batch, heads, queries, value_dim], as the DTensor that the call gives."""
        parts = Parts(self.problem, (self.plan.region,), ())
        return Results(self.plan, parts).of_rows(local)


def posed(call: Arguments) -> Posed:
    """A rank's part of a call of DTensors; all ranks ask for it together. Raises as `shared`."""
    mesh = _mesh(call)
    call, whole, _ = _whole(call, mesh, None)
    plan = Plan(whole, mesh, roles_of(call.query, whole), max(t.ndim for t in call[:3]) == 2)
    query, key, value = plan.query(call.query), plan.keys(call.key), plan.keys(call.value)
    return Posed(plan, plan.region.problem(query, key, value, plan.own))

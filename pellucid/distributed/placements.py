"""DTensors: what their placements say of a call, dimension of the mesh by dimension.

The query decides. Where it is sharded by sequences of the batch or by heads, ranks compute theirs alone; where it is
sharded along the sequence, its keys and values are gathered; where it is replicated, so is everything. Other tensors
are brought to where that wants them, as torch's own operators do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial

from pellucid.arguments import Arguments, as_autocast, check_tensors, checked_readouts, describe
from pellucid.distributed.exchange import Group, agree, numbers_of_all
from pellucid.distributed.parts import check_numbers, check_parts, computed, posed
from pellucid.distributed.plan import Plan, roles_of
from pellucid.distributed.results import Results
from pellucid.distributed.seen import OfRank, SharedObservation
from pellucid.distributed.sequence import texts_of, weighing
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
    mesh = next(tensor.device_mesh for tensor in call[:3] if isinstance(tensor, DTensor))
    call, whole, shaped = _whole(call, mesh, asked)
    plan = Plan(whole, mesh, roles_of(call.query, whole), max(t.ndim for t in call[:3]) == 2)
    query, key, value = plan.query(call.query), plan.keys(call.key), plan.keys(call.value)
    problems = posed([plan.region], query, key, value, plan.own)
    if not torch.compiler.is_compiling():
        check_numbers(whole, problems, _groups(mesh))
    parts = computed([plan.region], problems)
    results = Results(plan, parts)
    output = results.of_rows(parts.output)
    if asked is None:
        return output, None
    readings = {"lse": results.of_rows(parts.lse)}
    for readout in whole.readouts:
        readings[readout.name] = results.reading(readout, call.key)
    given = [tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor for tensor in weighing(call, whole)]
    of_rank = OfRank(parts, query.detach(), lambda: plan.keys(call.key).detach(), plan.own, plan.groups(), given)
    return output, SharedObservation(whole, readings, shaped, of_rank)


def _check_meshes(call: Arguments) -> None:
    for name, tensor in (("query", call.query), ("key", call.key), ("value", call.value)):
        if not isinstance(tensor, DTensor):
            raise TypeError(f"{name}: a DTensor is needed, as query, key or value is one; got {type(tensor).__name__}")
        if tensor.device_mesh != call.query.device_mesh:
            raise ValueError(f"{name}: query's mesh is needed, {call.query.device_mesh}, got {tensor.device_mesh}")


def _whole(
    call: Arguments, mesh: DeviceMesh, asked: list[Any] | None
) -> tuple[Arguments, Problem, Callable[[Tensor], Tensor]]:
    """The call, and as a problem whose query, key and value have sizes and no numbers; all ranks raise if one does."""
    fault: Exception | None = None
    whole = shaped = None
    try:
        call, whole, shaped = _described(call, asked)
    except Exception as error:  # a user's function may raise anything
        if torch.compiler.is_compiling():
            raise
        fault = error
    if not torch.compiler.is_compiling():
        agree(_groups(mesh), fault, texts_of(None if fault else whole, call[:3]))
    assert whole is not None
    if whole.dropout_p:
        whole = replace(whole, dropout_seed=_common(whole.dropout_seed, mesh))
    assert shaped is not None
    return call, whole, shaped


def _groups(mesh: DeviceMesh) -> list[Group]:
    return [mesh.get_group(dim) for dim in range(mesh.ndim)]


def _common(seed: int | Tensor, mesh: DeviceMesh) -> int | Tensor:
    """One of the ranks' seeds for all, as ranks that have the same must drop the same."""
    if isinstance(seed, Tensor):  # of a graph, which holds torch's operators alone
        every = DTensor.from_local(seed.to(mesh.device_type), mesh, [Partial("max")] * mesh.ndim, run_check=False)
        return every.full_tensor().to(seed.device)
    for group in _groups(mesh):
        seed = numbers_of_all(group, [seed])[0][0]
    return seed


def _described(call: Arguments, asked: list[Any] | None) -> tuple[Arguments, Problem, Callable[[Tensor], Tensor]]:
    _check_meshes(call)
    query, key, value = map(as_autocast, call[:3])
    check_tensors(query, key, value)
    call = call._replace(query=query, key=key, value=value)
    if asked is not None:
        call = call._replace(readouts=checked_readouts(asked[0], Observation))
    sized = [tensor.to_local().new_empty(()).expand(tensor.shape) for tensor in (query, key, value)]
    whole, shaped = describe(call._replace(query=sized[0], key=sized[1], value=sized[2]))
    check_parts(whole)
    for tensor in (*whole.captured, *(() if whole.sinks is None else (whole.sinks,))):
        if tensor.requires_grad and not isinstance(tensor, DTensor):
            raise TypeError(
                "attn_mask, sinks or a captured tensor: among DTensors one that needs a gradient must be one, "
                f"got a plain tensor {list(tensor.shape)}"
            )
    return call, whole, shaped

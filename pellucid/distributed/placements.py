"""DTensors: what their placements say of a call, dimension of the mesh by dimension.

The query decides. Where it is sharded by sequences of the batch or by heads, ranks compute theirs alone; where it is
sharded along the sequence, its keys and values are gathered; where it is replicated, so is everything. Other tensors
are brought to where that wants them, as torch's own operators do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial

from pellucid.arguments import Arguments, as_autocast, check_tensors, checked_readouts, describe
from pellucid.distributed import ring_gradients
from pellucid.distributed.exchange import Group, agree, numbers_of_all, once_followed, reduced
from pellucid.distributed.layout import even
from pellucid.distributed.parts import Parts, check_numbers, check_parts, computed, posed
from pellucid.distributed.plan import Plan, roles_of
from pellucid.distributed.results import Results
from pellucid.distributed.ring import Ring, travels
from pellucid.distributed.seen import OfRank, SharedObservation
from pellucid.distributed.sequence import given_beside, texts_of, weighing
from pellucid.engines.rounded import is_rounded
from pellucid.observation import Observation
from pellucid.problem import Problem, Result

Tensors = tuple[DTensor, DTensor, DTensor]  # query, key and value
Whole = tuple[Tensors, Arguments, Problem, Callable[[Tensor], Tensor]]


def shared(call: Arguments, asked: list[Any] | None = None) -> tuple[Tensor, Observation | None]:
    """A call of DTensors: the output, and what was seen if readouts are asked, as DTensors.

    Args:
        call: the arguments; its readouts are not looked at.
        asked: the readouts argument of `observe`, in a list; None if nothing is to be seen.

    Raises:
        TypeError: as `attention`; a plain tensor among DTensors.
        ValueError: as `attention`; meshes that differ, ranks that do not agree on the call.

    """
    tensors, call, whole, shaped = _agreed(call, asked)
    query, key, value = tensors
    plan = plan_of(whole, tensors)
    own = plan.query(query)
    parts = _on_ring(plan, tensors, own)
    if parts is None:
        problems = posed([plan.region], own, plan.keys(key), plan.keys(value), plan.own)
        if not torch.compiler.is_compiling():
            check_numbers(whole, problems, _groups(plan.mesh))
        parts = computed([plan.region], problems)
    results = Results(plan, parts)
    output = results.of_rows(parts.output)
    if asked is None:
        return output, None
    readings = {"lse": results.of_rows(parts.lse)}
    for readout in whole.readouts:
        readings[readout.name] = results.reading(readout, key)
    given = _with_local(weighing(query, key, whole))
    of_rank = OfRank(parts, own.detach(), lambda: plan.keys(key).detach(), plan.own, plan.groups(), given)
    return output, SharedObservation(whole, readings, shaped, of_rank)


def _with_local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors and the local parts of DTensors: each counts its own changes in place."""
    with torch.no_grad():
        return [*tensors, *(tensor.to_local() for tensor in tensors if isinstance(tensor, DTensor))]


def plan_of(whole: Problem, tensors: Tensors) -> Plan:
    """Which part of a call each rank computes."""
    query = tensors[0]
    return Plan(whole, query.device_mesh, roles_of(query, whole), max(tensor.ndim for tensor in tensors) == 2)


class OwnPart(NamedTuple):
    """A rank's part of a call of DTensors, to be computed by whoever asks."""

    plan: Plan
    problem: Problem  # of this rank's sequences, heads and queries, with all their keys

    def output(self, local: Tensor) -> Tensor:
        """A rank's output, [*batch, heads, queries, value_dim], as the DTensor that the call gives."""
        return Results(self.plan, Parts(self.problem, (self.plan.region,), ())).of_rows(local)


def own_part(call: Arguments) -> OwnPart:
    """A rank's part of a call of DTensors; all ranks ask for it together. Raises as `shared`."""
    tensors, _, whole, _ = _agreed(call, None)
    plan, (query, key, value) = plan_of(whole, tensors), tensors
    return OwnPart(plan, plan.region.problem(plan.query(query), plan.keys(key), plan.keys(value), plan.own))


def followed(whole: Problem, tensors: Tensors) -> bool:
    """Whether autograd follows a call."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*tensors, *given_beside(whole)))


def _on_ring(plan: Plan, tensors: Tensors, own: Tensor) -> Parts | None:
    """What a rank computes of keys that travel; None where they do not, or rows are such that it would not be right."""
    whole, (_, key, value) = plan.whole, tensors
    if not plan.can_travel(key, value) or not travels(whole, followed(whole, tensors)):
        return None
    assert plan.along is not None
    group = plan.mesh.get_group(plan.along)
    ring = Ring([plan.region], even(whole.k_len, plan.mesh.size(plan.along)), group, plan.own)
    mine = once_followed(own, plan.keys(key, some=True), plan.keys(value, some=True))
    rows = ring_gradients.computed(ring, *mine)
    large = is_rounded(rows.lse).any().int()
    for dim in range(plan.mesh.ndim):
        large = reduced(large, "max", plan.mesh.get_group(dim))
    if large:
        return None
    sizes = replace(whole, batch=tuple(map(len, plan.region.batch)), heads=len(plan.region.heads))
    return Parts(sizes, (plan.region,), (Result(rows.output, rows.lse, rows.readings),))


def checked(call: Arguments) -> Tensors:
    """Query, key and value, of one mesh.

    Raises:
        TypeError: one is no DTensor.
        ValueError: one is on another mesh.

    """
    query = next(tensor for tensor in call[:3] if isinstance(tensor, DTensor))
    for name, tensor in (("query", call.query), ("key", call.key), ("value", call.value)):
        if not isinstance(tensor, DTensor):
            raise TypeError(f"{name}: a DTensor is needed, as query, key or value is one; got {type(tensor).__name__}")
        if tensor.device_mesh != query.device_mesh:
            raise ValueError(f"{name}: the mesh of the others is needed, {query.device_mesh}, got {tensor.device_mesh}")
    return cast("Tensors", call[:3])


def whole_of(call: Arguments) -> Whole:
    """The call's tensors in the dtype of autocast, and the call as a problem whose tensors have sizes and no numbers.

    Raises TypeError and ValueError as `shared`.
    """
    query, key, value = map(as_autocast, call[:3])
    check_tensors(query, key, value)
    call = call._replace(query=query, key=key, value=value)
    tensors = cast("Tensors", (query, key, value))
    sized = [tensor.to_local().new_empty(()).expand(tensor.shape) for tensor in tensors]
    whole, shaped = describe(call._replace(query=sized[0], key=sized[1], value=sized[2]))
    check_parts(whole)
    for tensor in given_beside(whole):  # not by their ids, for which a graph would be made anew
        if tensor.requires_grad and not isinstance(tensor, DTensor):
            raise TypeError(
                "attn_mask, sinks or a captured tensor: among DTensors one that needs a gradient must be one, "
                f"got a plain tensor {list(tensor.shape)}"
            )
    return tensors, call, whole, shaped


def _agreed(call: Arguments, asked: list[Any] | None) -> Whole:
    """What `whole_of` gives, once the ranks agree on it; all raise if one does. A graph's ranks are not asked."""
    mesh = next(tensor.device_mesh for tensor in call[:3] if isinstance(tensor, DTensor))
    made = _checked_whole(call, asked) if torch.compiler.is_compiling() else _agreed_on(call, asked, _groups(mesh))
    tensors, call, whole, shaped = made
    if whole.dropout_p:
        whole = replace(whole, dropout_seed=_common(whole.dropout_seed, mesh))
    return tensors, call, whole, shaped


def _checked_whole(call: Arguments, asked: list[Any] | None) -> Whole:
    checked(call)
    readouts = () if asked is None else checked_readouts(asked[0], Observation)
    return whole_of(call._replace(readouts=readouts))


def _agreed_on(call: Arguments, asked: list[Any] | None, groups: Sequence[Group]) -> Whole:
    fault: Exception | None = None
    made = None
    try:
        made = _checked_whole(call, asked)
    except Exception as error:  # a user's function may raise anything
        fault = error
    agree(groups, fault, texts_of(None if made is None else made[2], call[:3]))
    assert made is not None
    return made


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

"""What ranks do in these tests, each with its own part; sent to them by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, distribute_tensor

import pellucid
from pellucid import distributed
from pellucid.distributed import ring, ring_gradients
from tests.distributed import cases
from tests.distributed.cases import Case, Place
from tests.distributed.ranks import group, mesh

Placements = Mapping[str, Sequence[Placement]]


def of_sequence(case: Case, layout: Any, key_layout: Any) -> dict[str, tuple[Tensor, Place]]:
    """This rank's results, gradients and weights of a call whose sequence is cut."""
    lies = {"queries": layout, "keys": key_layout}
    own, ranks = group(layout.ranks), layout.ranks
    rank = dist.get_rank(own)
    tensors = cases.tensors_for(case)
    for name, of in (("query", "queries"), ("key", "keys"), ("value", "keys")):
        tensors[name] = cases.cut(tensors[name], lies[of], rank, tensors[name].ndim - 2)
    tensors = cases.needing(tensors)
    asked = cases.readouts_for(case, tensors["of_keys"])

    def share(weights: Tensor, place: Place) -> Tensor:
        return cases.cut(weights, lies[place.of], rank, place.dim) if place.of else weights / ranks

    with ring.sending(case.way) if case.way else nullcontext(), _in_pieces(case), torch.set_grad_enabled(case.followed):
        made = cases.made_by(
            distributed.observe, case, tensors, readouts=asked, group=own, layout=layout, key_layout=key_layout
        )
    found = cases.results(case, asked, *made)
    if case.followed:
        with _in_pieces(case):
            cases.weighed(case, found, share).backward()
    gradients = {name: (tensor, _gradient_lies(name, tensor)) for name, tensor in cases.gradients_of(tensors).items()}
    for name, (gradient, place) in gradients.items():
        if not place.of:  # each rank has its own share
            total = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
            dist.all_reduce(total, group=own)
            gradients[name] = total.to(gradient.dtype), place
    seen = {name: (tensor, Place()) for name, tensor in cases.windows(case, made[1]).items()}
    return {name: (tensor.detach(), place) for name, (tensor, place) in {**found, **gradients, **seen}.items()}


@contextmanager
def _in_pieces(case: Case) -> Iterator[None]:
    """On a ring so few keys travel at a time, and meet so few queries."""
    if not case.piece:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "LEAST_PIECE", case.piece)
        patch.setattr(ring, "PIECE_BYTES", 0)
        patch.setattr(ring, "ROWS", case.piece)
        patch.setattr(ring_gradients, "ROWS", case.piece)
        yield


def _gradient_lies(name: str, tensor: Tensor) -> Place:
    of = {"d query": "queries", "d key": "keys", "d value": "keys"}
    return Place(of[name], tensor.ndim - 2) if name in of else Place()


def of_dtensors(case: Case, shape: tuple[int, ...], placements: Placements) -> dict[str, Tensor]:
    """All results, gradients and weights of a call of DTensors; `placements` of each tensor, others are plain."""
    lies = mesh(*shape)
    whole = cases.tensors_for(case)
    tensors = {
        name: placed(tensor, lies, placements[name]) if name in placements else tensor for name, tensor in whole.items()
    }
    tensors = {
        n: t.detach().requires_grad_() if n in placements and t.is_floating_point() else t for n, t in tensors.items()
    }
    asked = cases.readouts_for(case, tensors["of_keys"])
    output, seen = cases.made_by(pellucid.observe, case, tensors, readouts=asked)
    found = cases.results(case, asked, output, seen)
    cases.weighed(
        case, found, lambda weights, _: placed(weights, lies, [Replicate()] * len(shape))
    ).full_tensor().backward()
    made = {name: tensor for name, (tensor, _) in found.items()} | cases.gradients_of(tensors)
    return {name: tensor.detach().full_tensor() for name, tensor in made.items()} | cases.windows(case, seen)


def placed(tensor: Tensor, lies: DeviceMesh, placements: Sequence[Placement]) -> DTensor:
    """A DTensor of these placements, all of a sum on the first rank."""
    known = [Replicate() if placement.is_partial() else placement for placement in placements]
    local = distribute_tensor(tensor, lies, known).to_local()
    for dim, placement in enumerate(placements):
        if placement.is_partial() and lies.get_local_rank(dim):
            local = torch.zeros_like(local)
    return DTensor.from_local(
        local.contiguous(), lies, placements, run_check=False, shape=tensor.shape, stride=tensor.contiguous().stride()
    )

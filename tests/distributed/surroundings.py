"""What ranks do around a call: other modes of torch, second derivatives, dropout, losses of their own, and dying."""

from __future__ import annotations

import copy
import os
import pickle
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch._dynamo.testing
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.utils.checkpoint import checkpoint

import pellucid
from pellucid import Entropy, MaxScore, Received, distributed
from pellucid.distributed import even
from tests.cases import normal
from tests.distributed.calls import placed
from tests.distributed.cases import cut
from tests.distributed.ranks import group, mesh

HEADS, Q_LEN, K_LEN, DIM = 4, 11, 13, 4
NAMES = ("query", "key", "value")
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "none": nullcontext,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
BY_HEADS, BY_QUERIES = [Shard(0)], [Shard(1)]


def whole(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query, key and value of all ranks."""
    shapes = (HEADS, Q_LEN, DIM), (HEADS, K_LEN, DIM), (HEADS, K_LEN, DIM)
    return [normal(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


def lengths_of(ranks: int) -> list[Any]:
    return [even(length, ranks) for length in (Q_LEN, K_LEN, K_LEN)]


def own(ranks: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """This rank's positions of them."""
    rank = dist.get_rank(group(ranks))
    return [cut(tensor, layout, rank, 1) for tensor, layout in zip(whole(dtype), lengths_of(ranks), strict=True)]


def as_dtensors(lies: Any, placements: list[Placement], dtype: torch.dtype = torch.float32) -> list[DTensor]:
    return [placed(tensor, lies, placements) for tensor in whole(dtype)]


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def in_mode(name: str, ranks: int, placements: list[Placement] | None) -> dict[str, Any]:
    """Output and readings in a mode of torch, and whether there are gradients."""
    with MODES[name]():
        if placements is None:
            mine = [tensor.clone().requires_grad_() for tensor in own(ranks)]
            output, seen = distributed.observe(*mine, readouts=[Entropy(), Received()], group=group(ranks))
        else:
            mine = [tensor.detach().requires_grad_() for tensor in as_dtensors(mesh(ranks), placements)]
            output, seen = pellucid.observe(*mine, readouts=[Entropy(), Received()])
        found = {"output": output, "entropy": seen.entropy, "received": seen.received, "weights": seen.weights()}
        return {n: full(t).detach().clone() for n, t in found.items()} | {"gradients": output.requires_grad}


def second_derivatives(
    function: Callable[..., Any], tensors: list[Tensor], share: Callable[..., Tensor]
) -> list[Tensor]:
    """The gradients of a function of the gradients of everything.

    Args:
        function: gives output and observation.
        tensors: query, key and value, which are leaves.
        share: gives this rank's part of random numbers for the queries ("queries"), the keys or both as one.

    """
    output, seen = function(*tensors)
    rows, columns, outputs = (normal(*shape, dtype=torch.float64, seed=seed) for seed, shape in enumerate(SIZES))
    loss = (output * share(outputs, "queries")).sin().sum() + (seen.entropy * share(rows, "queries")).sum()
    loss = loss + (seen.received * share(columns, "keys")).sum()
    first = torch.autograd.grad(full(loss), tensors, create_graph=True)
    again = [normal(*t.shape, dtype=torch.float64, seed=9 + n) for n, t in enumerate(whole())]
    sides = ("queries", "keys", "keys")
    second = torch.stack(
        [full((g * share(w, side)).cos().sum()) for g, w, side in zip(first, again, sides, strict=True)]
    ).sum()
    second.backward()
    return [tensor.grad for tensor in tensors if tensor.grad is not None]


SIZES = ((HEADS, Q_LEN), (HEADS, K_LEN), (HEADS, Q_LEN, DIM))


def seen_of(*tensors: Tensor, **more: Any) -> Any:
    return pellucid.observe(*tensors, is_causal=True, readouts=[Entropy(), Received(), MaxScore(per_head=True)], **more)


def twice_of_sequence(ranks: int) -> list[Tensor]:
    rank, lies = dist.get_rank(group(ranks)), lengths_of(ranks)

    def share(weights: Tensor, side: str) -> Tensor:
        return cut(weights, lies[0 if side == "queries" else 1], rank, 1)

    def function(*tensors: Tensor) -> Any:
        return distributed.observe(*tensors, is_causal=True, readouts=[Entropy(), Received()], group=group(ranks))

    return second_derivatives(function, [t.requires_grad_() for t in own(ranks, torch.float64)], share)


def twice_of_dtensors(shape: tuple[int, ...], placements: list[Placement]) -> list[Tensor]:
    lies = mesh(*shape)
    tensors: list[Tensor] = [t.detach().requires_grad_() for t in as_dtensors(lies, placements, torch.float64)]
    found = second_derivatives(seen_of, tensors, lambda weights, _: placed(weights, lies, [Replicate()] * len(shape)))
    return [full(gradient) for gradient in found]


def dropping(ranks: int) -> list[Tensor]:
    """Output, weights and what was dropped of two calls that are seeded alike, with value's gradient of the first."""
    torch.manual_seed(3)
    query, key, value = own(ranks)
    value.requires_grad_()
    output, seen = distributed.observe(query, key, value, dropout_p=0.4, group=group(ranks))
    output.sum().backward()
    torch.manual_seed(3)
    again = distributed.attention(query, key, value, dropout_p=0.4, group=group(ranks))
    other = distributed.attention(query, key, value, dropout_p=0.4, group=group(ranks))
    return [t.detach() for t in (output, again, other, seen.weights(), seen.dropped(), value.grad)]  # type: ignore[union-attr]


def dropping_dtensors(shape: tuple[int, ...], placements: list[Placement]) -> list[Tensor]:
    """The same of DTensors; each rank has seeds of its own."""
    lies = mesh(*shape)
    query, key, value = as_dtensors(lies, placements)
    value = value.detach().requires_grad_()
    torch.manual_seed(3 + dist.get_rank())
    output, seen = pellucid.observe(query, key, value, dropout_p=0.4)
    full(output.sum()).backward()
    torch.manual_seed(3 + dist.get_rank())
    again = pellucid.attention(query, key, value, dropout_p=0.4)
    other = pellucid.attention(query, key, value, dropout_p=0.4)
    found = [full(t).detach() for t in (output, again, other, seen.weights(), seen.dropped(), value.grad)]
    return [*found, output.to_local().detach()]


def other_losses(ranks: int, which: list[list[str]]) -> dict[str, Tensor]:
    """The gradients where each rank's loss is made of other readings."""
    rank = dist.get_rank(group(ranks))
    mine = dict(zip(NAMES, (tensor.requires_grad_() for tensor in own(ranks)), strict=True))
    output, seen = distributed.observe(
        *mine.values(), readouts=[Entropy(), Received(), MaxScore(per_head=True)], group=group(ranks)
    )
    found = {"output": output, "entropy": seen.entropy, "received": seen.received, "largest": seen.head_max_scores}
    torch.stack([found[name].sin().sum() for name in which[rank]]).sum().backward()
    return {name: torch.zeros_like(t) if t.grad is None else t.grad for name, t in mine.items()}


# Weights asked afterwards.


def told(call: Callable[[], Any]) -> str:
    """What came of it, in words."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def observed(ranks: int, placements: list[Placement] | None) -> tuple[list[Tensor], Any]:
    """A call's tensors, that of its sinks too, and its observation."""
    sinks = torch.zeros(HEADS)
    if placements is None:
        mine = own(ranks)
        return [*mine, sinks], distributed.observe(*mine, sinks=sinks, group=group(ranks))[1]
    tensors: list[Tensor] = list(as_dtensors(mesh(ranks), placements))
    return [*tensors, sinks], pellucid.observe(*tensors, sinks=sinks)[1]


def changed(ranks: int, place: int, inside: bool, placements: list[Placement] | None) -> list[str]:
    """What the last rank is told of weights once it has changed a tensor in place, and the others."""
    tensors, seen = observed(ranks, placements)
    before = seen.weights()
    if dist.get_rank(group(ranks)) == ranks - 1:
        with torch.no_grad():
            tensor = tensors[place]
            (tensor.to_local() if inside and isinstance(tensor, DTensor) else tensor).add_(1)
    dropped = seen.dropped()
    assert before.shape == dropped.shape
    return [told(seen.weights), told(seen.dropped)]


def asking(ranks: int, placements: list[Placement] | None) -> list[str]:
    """What ranks are told that ask for different parts, or for one that is not there; and that they go on."""
    _, seen = observed(ranks, placements)
    rank = dist.get_rank(group(ranks))
    found = [
        told(lambda: seen.weights(queries=[rank])),
        told(lambda: seen.weights(keys=slice(rank, None))),
        told(lambda: seen.dropped(heads=rank)),
        told(lambda: seen.weights(keys=99 * rank)),
        told(lambda: seen.weights(heads=HEADS)),
    ]
    assert seen.weights(queries=-1).shape == (HEADS, 1, K_LEN)
    return found


def copies(ranks: int, placements: list[Placement] | None) -> list[str]:
    """What a rank is told of copies of an observation, and pictures."""
    _, seen = observed(ranks, placements)
    functions = (pickle.dumps, copy.deepcopy, copy.copy, lambda own: own.view(), lambda own: own.save_picture("x.png"))
    return [told(lambda function=function: function(seen)) for function in functions]  # type: ignore[misc]


# Checkpoints and compiled calls.


def checkpointed(ranks: int, reentrant: bool, placements: list[Placement] | None) -> list[Tensor]:
    """Output and gradients of a call with dropout in a checkpoint, and of the same without."""

    def function(*tensors: Tensor) -> Tensor:
        if placements is None:
            return distributed.attention(
                *tensors, dropout_p=0.3, is_causal=True, group=group(ranks), layout="contiguous"
            )
        return pellucid.attention(*tensors, dropout_p=0.3, is_causal=True)

    found = []
    for by in (lambda *tensors: checkpoint(function, *tensors, use_reentrant=reentrant), function):
        torch.manual_seed(5)
        given = own(ranks) if placements is None else as_dtensors(mesh(ranks), placements)
        leaves = [tensor.detach().requires_grad_() for tensor in given]
        output = by(*leaves)
        full(output.sin().sum()).backward()
        found += [full(output).detach(), *(full(leaf.grad) for leaf in leaves)]  # type: ignore[arg-type]
    return found


# Dying.


def leaving(when: str) -> str:
    """What is told where the last rank of all dies, or does not come; it may be the process that asks."""
    ranks = dist.get_world_size()
    last = dist.get_rank() == ranks - 1
    mine = [tensor.requires_grad_() for tensor in own(ranks)]

    def leave() -> None:
        if last and when.startswith("dies"):
            os._exit(1)

    def call() -> None:
        distributed.attention(*mine)  # which all reach
        if when == "dies before":
            leave()
        if last and when == "does not come":
            time.sleep(4)
            return
        output, seen = distributed.observe(*mine, readouts=[Received()])
        if when == "dies before backward":
            leave()
        if last and when == "has no loss":
            time.sleep(4)
            return
        (output.sum() + seen.received.sum()).backward()
        if when == "dies before weights":
            leave()
        seen.weights()

    return told(call)


def leaving_dtensors(when: str) -> str:
    """The same of DTensors along the sequence."""
    lies = mesh(dist.get_world_size())
    last = dist.get_rank() == dist.get_world_size() - 1
    mine = [tensor.detach().requires_grad_() for tensor in as_dtensors(lies, BY_QUERIES)]

    def call() -> None:
        pellucid.attention(*mine)
        if last and when == "dies before":
            os._exit(1)
        output = pellucid.attention(*mine)
        if last and when == "dies before backward":
            os._exit(1)
        output.sum().backward()

    return told(call)


def compiled(shape: tuple[int, ...], placements: list[Placement], backend: str, dropout_p: float) -> dict[str, Any]:
    """A compiled call of DTensors and its gradients, the same not compiled, and how often it was compiled."""
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    lies, found = mesh(*shape), {}

    def function(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor, table: Tensor) -> Any:
        return pellucid.observe(
            query, key, value, dropout_p=dropout_p, is_causal=True, sinks=sinks,
            score_mod=lambda score, b, h, q, k: score + table[h, q] * k, readouts=[Entropy(), Received()],
        )  # fmt: skip

    def seeing(*tensors: Tensor) -> tuple[Tensor, ...]:
        output, seen = function(*tensors)
        return output, seen.entropy, seen.received

    everywhere = [Replicate()] * len(shape)
    tables = [normal(HEADS, dtype=torch.float32, seed=7), normal(HEADS, Q_LEN, dtype=torch.float32, seed=8)]
    for name, by in (("compiled", torch.compile(seeing, fullgraph=True, backend=counter)), ("plain", seeing)):
        for turn in range(2):
            torch.manual_seed(11 + turn + 5 * dist.get_rank())
            tensors = [*as_dtensors(lies, placements), *(placed(table, lies, everywhere) for table in tables)]
            leaves = [tensor.detach().requires_grad_() for tensor in tensors]
            results = by(*leaves)
            torch.stack([full(result.sin().sum()) for result in results]).sum().backward()
            found[f"{name} {turn}"] = [full(t).detach() for t in (*results, *(leaf.grad for leaf in leaves))]
            found[f"{name} {turn}, placements"] = [tensor.placements for tensor in results]
    return found | {"graphs": counter.frame_count}


def compiled_sequence(ranks: int, fullgraph: bool) -> Any:
    """What comes of a compiled call of a sequence's parts: the output and the same not compiled, or the refusal."""
    torch.compiler.reset()

    def function(*tensors: Tensor) -> Tensor:
        return distributed.attention(*(tensor * 2 for tensor in tensors), group=group(ranks)) + 1

    by = torch.compile(function, fullgraph=fullgraph, backend="aot_eager")
    mine = own(ranks)
    if fullgraph:
        return told(lambda: by(*mine))
    return by(*mine), function(*mine)


def ring_of_a_changed_mask(ranks: int) -> str:
    """What backward says of a mask that was changed since the keys travelled."""
    query, key, value = own(ranks)
    query = query.detach().requires_grad_()
    mask = torch.ones(Q_LEN, K_LEN, dtype=torch.bool)
    with distributed.sending("ring"):
        output = distributed.attention(query, key, value, mask, group=group(ranks))
    mask[:, 1] = False
    return told(lambda: output.sum().backward())


def ring_of_a_sharded_mask(shape: tuple[int, ...]) -> str:
    """What is said of a mask that is a DTensor, where keys are to travel."""
    lies = mesh(*shape)
    query, key, value = (placed(tensor, lies, [Shard(1)]) for tensor in whole())
    mask = placed(torch.ones(Q_LEN, K_LEN, dtype=torch.bool), lies, [Shard(0)])
    with distributed.sending("ring"):
        return told(lambda: pellucid.attention(query, key, value, mask))


def ring_twice(ranks: int, placements: list[Placement] | None) -> str:
    """What is said of second derivatives where keys have travelled."""
    given = own(ranks) if placements is None else as_dtensors(mesh(ranks), placements)
    tensors = [tensor.detach().requires_grad_() for tensor in given]
    with distributed.sending("ring"):
        output = pellucid.attention(*tensors) if placements else distributed.attention(*tensors, group=group(ranks))
    first = torch.autograd.grad(full(output.sin().sum()), tensors, create_graph=True)
    return told(lambda: torch.autograd.grad(full(first[0].sin().sum()), tensors))

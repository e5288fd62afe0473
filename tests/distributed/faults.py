"""Calls that the ranks do not agree on: what each gives, by a name that is sent to the ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

import pellucid
from pellucid import At, Entropy, Expect, TopK, distributed
from pellucid.distributed import of_lengths
from pellucid.readouts import ColumnReadout
from tests.cases import normal
from tests.distributed.ranks import group, mesh

HEADS, LENGTH, DIM = 2, 6, 4  # of each rank
Named = dict[str, Any]
ODD = 1  # the rank that is unlike the others


def tensors(rank: int, **change: Any) -> Named:
    """A rank's query, key and value, of another size or dtype where they are to be changed."""
    sizes = {"heads": HEADS, "length": LENGTH, "dim": DIM, "dtype": torch.float32} | (change if rank == ODD else {})
    shape = (sizes["heads"], sizes["length"], sizes["dim"])
    return {
        name: normal(*shape, dtype=sizes["dtype"], seed=seed) for seed, name in enumerate(("query", "key", "value"))
    }


def _raising(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    raise KeyError("a user's own fault")


def _adding(table: Tensor) -> Callable[..., Any]:
    return lambda score, b, h, q, k: score + table[h]


class Counted(pellucid.Received):
    """A user's own sum over queries, which does not say what it is of some of them."""

    name = "counted"
    of_queries = ColumnReadout.of_queries


# What a rank's arguments are, and what they are on the odd one; and of which argument the errors speak.
DIFFERING: dict[str, tuple[Callable[[int], Named], str]] = {
    "heads": (lambda rank: tensors(rank, heads=4), "query"),
    "head_dim": (lambda rank: tensors(rank, dim=5), "query"),
    "dtype": (lambda rank: tensors(rank, dtype=torch.float64), "query"),
    "batch": (lambda rank: {n: t[None] if rank == ODD else t for n, t in tensors(rank).items()}, "query"),
    "scale": (lambda rank: {"scale": 1.0 + (rank == ODD)}, "scale"),
    "causal": (lambda rank: {"is_causal": rank == ODD}, "mask_mod, attn_mask or is_causal"),
    "dropout": (lambda rank: {"dropout_p": 0.1 + 0.1 * (rank == ODD)}, "dropout_p"),
    "function": (lambda rank: {"score_mod": lambda s, b, h, q, k: s * (2 + (rank == ODD))}, "score_mod or attn_mask"),
    "a captured shape": (
        lambda rank: {"score_mod": _adding(torch.ones(HEADS + (rank == ODD)))},
        "score_mod or attn_mask",
    ),
    "a captured number": (
        lambda rank: {"score_mod": _adding(torch.tensor([1.0, 2.0 + (rank == ODD)]))},
        "score_mod or attn_mask",
    ),
    "a mask": (
        lambda rank: {"attn_mask": torch.ones(3 * LENGTH, 3 * LENGTH, dtype=torch.bool).triu(-(rank == ODD))},
        "mask_mod, attn_mask or is_causal",
    ),
    "sinks' numbers": (lambda rank: {"sinks": torch.zeros(HEADS) + (rank == ODD)}, "sinks"),
    "a readout's numbers": (
        lambda rank: {"readouts": [Expect((lambda t: lambda b, h, q, k: t[h])(torch.ones(HEADS) * (1 + rank)), "e")]},
        "readouts",
    ),
    "readouts": (lambda rank: {"readouts": [Entropy(), TopK(2)][: 1 + (rank == ODD)]}, "readouts"),
    "a readout's number": (lambda rank: {"readouts": [TopK(1 + (rank == ODD))]}, "readouts"),
    "sinks": (lambda rank: {"sinks": torch.zeros(HEADS) if rank == ODD else None}, "sinks"),
    "query's gradient": (lambda rank: {"query": tensors(0)["query"].requires_grad_(rank == ODD)}, "requires_grad"),
    "value's gradient": (lambda rank: {"value": tensors(0)["value"].requires_grad_(rank == ODD)}, "requires_grad"),
    "sinks' gradient": (lambda rank: {"sinks": torch.zeros(HEADS, requires_grad=rank == ODD)}, "requires_grad"),
    "a captured gradient": (
        lambda rank: {"score_mod": _adding(torch.ones(HEADS, requires_grad=rank == ODD))},
        "requires_grad",
    ),
    "a readout's gradient": (
        lambda rank: {
            "readouts": [Expect((lambda t: lambda b, h, q, k: t[h])(torch.ones(HEADS, requires_grad=rank == ODD)), "e")]
        },
        "requires_grad",
    ),
}  # fmt: skip
WRONG: dict[str, tuple[Named, str]] = {  # on the odd rank alone
    "query": ({"query": 3}, "query: a (DT|t)ensor is needed"),
    "a kind of tensor": ({"key": torch.ones(HEADS, LENGTH, DIM, dtype=torch.long)}, "key: one of float64"),
    "scale": ({"scale": "large"}, "scale: a number is needed"),
    "flag": ({"is_causal": 1}, "is_causal: a bool is needed"),
    "attn_mask": ({"attn_mask": torch.ones(3, 5)}, "attn_mask: must broadcast"),
    "sinks": ({"sinks": torch.ones(3)}, "sinks: one logit a head"),
    "readouts": ({"readouts": [3]}, "readouts: each must be a readout"),
    "a readout that does not fit": ({"readouts": [TopK(100)]}, "k: TopK"),
    "a function of other things": ({"score_mod": lambda s, b, h, q, k: float(s)}, "score_mod"),
    "a function that raises": ({"score_mod": _raising}, "a user's own fault"),
}
LAYOUTS: dict[str, tuple[Named, str]] = {
    "layout's name": ({"layout": "zigzag"}, "layout: a Layout or one of contiguous, head_tail"),
    "layout's kind": ({"layout": 3}, "layout: a Layout or its name"),
    "layout's lengths": ({"layout": of_lengths([1, 2])}, r"layout: the ranks have \[6, 6\]"),
    "layout of keys": ({"key_layout": "zigzag"}, "key_layout: a Layout or one of"),
}
# Of all ranks, but found out by those alone whose queries, or whose part, it concerns.
PARTIAL: dict[str, tuple[Callable[[], Named], str]] = {
    "keys that are not there": (
        lambda: {"readouts": [At(torch.arange(2 * LENGTH)[:, None] + 1)]},
        "keys: At takes -1, for none, to 11",
    ),
    "a place beyond a tensor": (
        lambda: {"score_mod": (lambda t: lambda s, b, h, q, k: s + t[q])(torch.ones(LENGTH + 1))},
        "index|beyond|out of",
    ),
    "a readout that is whole or nothing": (
        lambda: {"readouts": [Counted()], "layout": of_lengths([2 * LENGTH, 0])},
        "Counted has no of_queries",
    ),
}


def arguments(of: str, name: str, rank: int) -> Named:
    """What a rank gives."""
    if of == "differing":
        return tensors(0) | DIFFERING[name][0](rank)
    if of == "partial":
        made = PARTIAL[name][0]()
        layout = made.get("layout", of_lengths([LENGTH, LENGTH]))
        whole = {n: torch.cat([t, t.flip(1)], 1) for n, t in tensors(0).items()}
        span = range(sum(layout.lengths[:rank]), sum(layout.lengths[: rank + 1]))
        return {n: t[:, span.start : span.stop] for n, t in whole.items()} | made
    return tensors(0) | ((WRONG | LAYOUTS)[name][0] if rank == ODD else {})


def of_sequence(of: str, name: str, ranks: int) -> str:
    """What a rank is told of such a call; then they are together again."""
    own = group(ranks)
    told = _told(lambda: distributed.observe(**arguments(of, name, dist.get_rank(own)), group=own))
    distributed.attention(**tensors(0), group=own)
    return told


def of_dtensors(of: str, name: str, ranks: int) -> str:
    """The same of DTensors, sharded along the sequence."""
    lies = mesh(ranks)
    given = arguments(of, name, lies.get_local_rank())
    given.pop("layout", None)
    for argument in ("query", "key", "value"):
        if isinstance(given[argument], Tensor):
            made = placed_here(given[argument], lies)
            given[argument] = made.detach().requires_grad_(given[argument].requires_grad)
    told = _told(lambda: pellucid.observe(**given))
    pellucid.attention(*(placed_here(tensor, lies) for tensor in tensors(0).values()))
    return told


def placed_here(tensor: Tensor, lies: Any) -> Any:
    """A DTensor whose local part this rank has, nothing being sent."""
    return DTensor.from_local(tensor, lies, [Shard(tensor.ndim - 2)], run_check=False)


def _told(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"

"""Calls to be made whole in one process and in parts on several, each from a description: what is to be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from pellucid import masks, readouts
from pellucid.distributed.layout import Layout, documents, even, head_tail, of_lengths
from pellucid.readouts import ColumnReadout, Readout
from pellucid.readouts.base import tensors_of
from tests.cases import normal
from tests.readouts.examples import every

Function = Callable[..., Any]
Tensors = dict[str, Tensor]
DIM, VALUE_DIM = 8, 5
READOUTS = 6  # of a call
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2.0**-7}  # of what is largest


@dataclass(frozen=True)
class Case:
    """One call: sizes, what changes its scores, and the seed of its numbers."""

    q_len: int
    k_len: int
    batch: tuple[int, ...] = (2,)
    heads: int | None = 4  # None: neither a dimension of heads nor of the batch
    kv_heads: int = 2
    dtype: torch.dtype = torch.float32
    causal: bool = False
    attn_mask: str = ""  # "bool" or "float", and the dimensions that it has: "bool bqk"
    mask: str = ""  # of MASKS
    score: str = ""  # of SCORES
    sinks: bool = False
    seed: int = 0
    way: str = ""  # in which keys and values are sent: "ring", or as the call wants
    piece: int = 0  # keys that travel on it at a time, and queries that meet them; 0: as many as in use
    followed: bool = True  # whether gradients are asked for

    @property
    def ids(self) -> Tensor:
        """Documents of the positions of queries and keys, which are numbered as one."""
        return torch.arange(max(self.q_len, self.k_len)) // 5


# Of a case, and of the tensor that they capture.
MASKS: dict[str, Callable[[Case], Function]] = {
    "window": lambda case: masks.sliding_window(3, 1),
    "documents": lambda case: masks.documents(case.ids[: case.q_len], case.ids[: case.k_len]),
    "causal documents": lambda case: masks.causal() & masks.documents(case.ids[: case.q_len], case.ids[: case.k_len]),
    "key lengths": lambda case: masks.key_lengths(torch.arange(torch.Size(case.batch).numel()) % case.k_len + 1),
    "lower right": lambda case: masks.causal_lower_right(case.q_len, case.k_len),
}
SCORES: dict[str, tuple[Callable[[Case], Sequence[int]], Callable[[Case, Tensor], Function]]] = {
    "relative": (
        lambda case: (case.heads or 1, case.q_len + case.k_len),
        lambda case, table: lambda score, b, h, q, k: score + table[h, q - k + case.k_len],
    ),
    "of queries": (
        lambda case: (case.q_len,),
        lambda case, table: lambda score, b, h, q, k: score * table[q],
    ),
    "of keys": (
        lambda case: (case.k_len, case.heads or 1),
        lambda case, table: lambda score, b, h, q, k: score + table[k, h],
    ),
    "of sequences": (
        lambda case: (torch.Size(case.batch).numel(), case.q_len, case.k_len),
        lambda case, table: lambda score, b, h, q, k: score + table[b, q, k],
    ),
    "capped": (
        lambda case: (),
        lambda case, table: lambda score, b, h, q, k: (score * table).tanh() * 3 - (h + 1) * abs(q - k) * 0.1,
    ),
}


def tensors_for(case: Case) -> Tensors:
    """What the call is of: float tensors, of which those need gradients, and masks."""
    batch = case.batch if case.heads else ()
    heads, kv_heads = ((case.heads,), (case.kv_heads,)) if case.heads else ((), ())
    made = {
        "query": normal(*batch, *heads, case.q_len, DIM, seed=case.seed),
        "key": normal(*batch, *kv_heads, case.k_len, DIM, seed=case.seed + 1),
        "value": normal(*batch, *kv_heads, case.k_len, VALUE_DIM, seed=case.seed + 2),
    }
    if case.attn_mask:
        kind, dims = case.attn_mask.split(" ")
        numbers = normal(*_mask_shape(case, dims), seed=case.seed + 3)
        made["attn_mask"] = numbers > -0.7 if kind == "bool" else numbers
    if case.sinks:
        made["sinks"] = normal(case.heads or 1, seed=case.seed + 4)
    if case.score:
        made["table"] = normal(*SCORES[case.score][0](case), seed=case.seed + 5)
    made["of_keys"] = normal(case.k_len, seed=case.seed + 6)
    return {name: t.to(case.dtype) if t.is_floating_point() else t for name, t in made.items()}


def _mask_shape(case: Case, dims: str) -> list[int]:
    sizes = {"h": [case.heads or 1], "q": [case.q_len], "k": [case.k_len]}
    if not case.heads:
        return [sizes[dim][0] if dim in dims else 1 for dim in "qk"]
    before = list(case.batch) if "b" in dims else [1] * len(case.batch)
    return [*before, *(sizes[dim][0] if dim in dims else 1 for dim in "hqk")]


def readouts_for(case: Case, of_keys: Tensor) -> list[Readout]:
    """Some of every kind that the call has enough keys for, each under a name of its own; on a ring what it carries."""
    made = [readouts.MaxScore(per_head=True), readouts.Expect(lambda b, h, q, k: of_keys[k] * q, "of_keys")]
    if case.way == "ring":
        rows = [readouts.Entropy(), readouts.MaxScore(), made[1]]
        return [readouts.LogSumExp(), *(() if case.followed else rows)]
    if case.k_len > 4:
        made += [example(case.q_len) for example in every()]
    else:
        made += [readouts.LogSumExp(), readouts.Entropy(), readouts.MaxScore(), readouts.Received()]
        made += [readouts.TopK(1), readouts.Pooled(2, 3), readouts.PooledMax(3, 2)][: 3 if case.k_len else 0]
    for place, readout in enumerate(made):
        if not readout.is_lse:
            readout.name = f"{readout.name} {place}"
    drawn = torch.randperm(len(made), generator=torch.Generator().manual_seed(case.seed)).tolist()
    return [made[place] for place in sorted(drawn[:READOUTS])]


def made_by(function: Function, case: Case, tensors: Mapping[str, Tensor], **more: Any) -> Any:
    """What a function of the face makes of the call of these tensors, whole or a rank's."""
    named: dict[str, Any] = {"is_causal": case.causal, "enable_gqa": case.heads is not None, **more}
    if case.score:
        named["score_mod"] = SCORES[case.score][1](case, tensors["table"])
    if case.mask:
        named["mask_mod"] = MASKS[case.mask](case)
    for name in ("attn_mask", "sinks"):
        if name in tensors:
            named[name] = tensors[name]
    return function(tensors["query"], tensors["key"], tensors["value"], **named)


class Place(NamedTuple):
    """Where the ranks' parts of a result lie: along a dimension as the queries or the keys do; else all have all."""

    of: str = ""  # "queries" or "keys"
    dim: int = 0


def results(case: Case, asked: Sequence[Readout], output: Tensor, seen: Any) -> dict[str, tuple[Tensor, Place]]:
    """The tensors of a call's output and readings."""
    batch = len(case.batch) if case.heads else 0
    found = {
        "output": (output, Place("queries", output.ndim - 2)),
        "lse": (seen.lse, Place("queries", seen.lse.ndim - 1)),
    }
    for readout in asked:
        place = Place("queries", batch + (readout.per_head and case.heads is not None))
        if isinstance(readout, ColumnReadout):
            place = Place("keys", seen[readout.name].ndim - 1) if readout.of_keys else Place()
        for number, tensor in enumerate(tensors_of(seen[readout.name])):
            found[f"{readout.name}, {number}"] = tensor, Place() if readout.joins_rows else place
    return found


def weighed(case: Case, found: Mapping[str, tuple[Tensor, Place]], share: Callable[[Tensor, Place], Tensor]) -> Tensor:
    """A loss that all of the results have a part in.

    Args:
        case: the call.
        found: of `results`.
        share: gives of random numbers, one for each number of a whole result, those for what is at hand.

    """
    terms = []
    for number, (tensor, place) in enumerate(found.values()):
        if tensor.requires_grad:
            whole = list(tensor.shape)
            if place.of:
                whole[place.dim] = case.q_len if place.of == "queries" else case.k_len
            weights = normal(*whole, dtype=tensor.dtype, seed=case.seed + 100 + number)
            terms.append((tensor.nan_to_num(posinf=0.0, neginf=0.0) * share(weights, place)).sum())
    return torch.stack([term.float() if case.dtype == torch.bfloat16 else term for term in terms]).sum()


def alone(case: Case) -> Tensors:
    """All that comes of the call in one process: results, gradients, weights."""
    tensors = needing(tensors_for(case))
    asked = readouts_for(case, tensors["of_keys"])
    with torch.set_grad_enabled(case.followed):
        output, seen = made_by(pellucid.observe, case, tensors, readouts=asked)
    found = results(case, asked, output, seen)
    if case.followed:
        weighed(case, found, lambda weights, place: weights).backward()
    readings = {name: tensor.detach() for name, (tensor, _) in found.items()}
    return readings | gradients_of(tensors) | windows(case, seen)


def windows(case: Case, seen: Any) -> Tensors:
    """Some of the weights, as all ranks have them: of every place, and of queries and keys by number."""
    chosen = {"queries": torch.arange(case.q_len - 1, -1, -2), "keys": slice(case.k_len // 3, None)}
    return {"weights": seen.weights(), "a window": seen.weights(**chosen), "dropped": seen.dropped(**chosen)}


def needing(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors, gradients asked of those that have some."""
    return {n: t.clone().requires_grad_() if t.is_floating_point() else t for n, t in tensors.items()}


def gradients_of(tensors: Mapping[str, Tensor]) -> Tensors:
    """The gradients, by the name of the tensor."""
    return {f"d {name}": t.grad for name, t in tensors.items() if t.grad is not None}


def assert_same(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], dtype: torch.dtype, rounded: int = 1
) -> None:
    """The same names and numbers; whole numbers and what is not finite to the last, others relative to the largest.

    Args:
        found: what was found.
        expected: what it should be.
        dtype: of the call, whose tolerance it is.
        rounded: in how many parts a number was rounded to it.

    """
    assert found.keys() == expected.keys()
    for name, exact in expected.items():
        own = found[name]
        assert (own.shape, own.dtype) == (exact.shape, exact.dtype), name
        finite = exact.isfinite()
        assert torch.equal(own[~finite].nan_to_num(nan=7.0), exact[~finite].nan_to_num(nan=7.0)), name
        if not exact.is_floating_point():
            assert torch.equal(own, exact), name
        elif finite.any():
            allowed = rounded * TOLERANCE[dtype] * exact[finite].abs().max().clamp(min=1.0).item()
            error = (own[finite] - exact[finite]).abs().max().item()
            assert error <= allowed, f"{name}: {error:.3g}, allowed {allowed:.3g}"


def cut(tensor: Tensor, layout: Layout, rank: int, dim: int) -> Tensor:
    """A rank's part of a tensor along a dimension."""
    return torch.cat([tensor.narrow(dim, s.start, len(s)) for s in (*layout.spans[rank], range(0))], dim)


def together(parts: Sequence[Tensor], layout: Layout, dim: int) -> Tensor:
    """All ranks' parts, as one; NaN where none has one."""
    shape = list(parts[0].shape)
    shape[dim] = layout.length
    whole = parts[0].new_full(shape, -7)
    for part, spans in zip(parts, layout.spans, strict=True):
        assert part.shape[dim] == sum(map(len, spans))
        whole.index_copy_(dim, torch.tensor([place for span in spans for place in span], dtype=torch.long), part)
    return whole


LAYOUTS: dict[str, Callable[[int, int, int], Layout]] = {
    "even": lambda length, ranks, seed: even(length, ranks),
    "head_tail": lambda length, ranks, seed: head_tail(length, ranks),
    "documents": lambda length, ranks, seed: documents([length // 3, 0, length - length // 3], ranks),
    "first has none": lambda length, ranks, seed: of_lengths(
        [0] * (ranks > 1) + [*even(length, max(ranks - 1, 1)).lengths]
    ),
    "by hand": lambda length, ranks, seed: _scattered(length, ranks, seed),
}


def _scattered(length: int, ranks: int, seed: int) -> Layout:
    """Stretches of any length, each on some rank, in any order."""
    drawn = torch.Generator().manual_seed(seed)
    cuts = [0, *sorted(torch.randint(length + 1, (5,), generator=drawn).tolist()), length]
    spans: list[list[range]] = [[] for _ in range(ranks)]
    for place in torch.randperm(6, generator=drawn).tolist():
        spans[int(torch.randint(ranks, (), generator=drawn))].append(range(cuts[place], cuts[place + 1]))
    return Layout(tuple(map(tuple, spans)))


@st.composite
def cases(draw: st.DrawFn, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> Case:
    """Any call: self- and cross-attention, shapes, groups, masks, functions."""
    q_len = draw(st.sampled_from((0, 1, 2, 3, 7, 13, 29)))
    k_len = draw(st.just(q_len) | st.sampled_from((0, 1, 2, 5, 11, 31)))
    heads, kv_heads = draw(st.sampled_from(((None, 1), (1, 1), (2, 2), (4, 2), (6, 3), (3, 1))))
    batch = draw(st.sampled_from(((), (1,), (2,), (2, 3), (3,))))
    attn_mask = draw(st.sampled_from(("", "", *(f"{kind} {dims}" for kind in ("bool", "float") for dims in MASK_DIMS))))
    mask = draw(st.sampled_from(("", *MASKS)))
    return Case(
        q_len, k_len, batch, heads, kv_heads, draw(st.sampled_from(dtypes)), draw(st.booleans()), attn_mask,
        "" if mask == "key lengths" and not k_len else mask, draw(st.sampled_from(("", *SCORES))), draw(st.booleans()),
        draw(st.integers(0, 2**10)),
    )  # fmt: skip


MASK_DIMS = ("qk", "k", "q", "bhqk", "bk", "hqk")

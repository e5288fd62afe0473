"""A call whose queries, keys and values lie along the sequence on several ranks: each hands in its own positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.arguments import Arguments, as_autocast, check_captured, check_tensors, checked_readouts, describe
from pellucid.distributed import layout as layouts
from pellucid.distributed import ring_gradients
from pellucid.distributed.exchange import (
    Group,
    Joining,
    agree,
    gathered,
    joined,
    numbers_of_all,
    once_followed,
    reduced,
    refuse_together,
)
from pellucid.distributed.graphs import beside_graphs
from pellucid.distributed.layout import Layout, Spans
from pellucid.distributed.parts import Parts, check_numbers, check_parts, computed, posed
from pellucid.distributed.region import Region, as_it_is
from pellucid.distributed.ring import Ring, Rows, chosen, travels
from pellucid.distributed.seen import OfRank, SharedObservation
from pellucid.engines.rounded import is_rounded
from pellucid.language import write
from pellucid.observation import Observation
from pellucid.problem import Problem, Result
from pellucid.readouts import Readout
from pellucid.readouts.base import ColumnReadout, tensors_of
from pellucid.tensors import bits

Function = Callable[..., Any]
Given = Layout | str | None


UNCOMPILED = "ranks compare what they are asked, which no graph holds; of DTensors at pellucid.attention one does"
TOLD = (
    "query", "key", "value", "sinks", "scale", "dropout_p", "score_mod or attn_mask",
    "mask_mod, attn_mask or is_causal", "readouts", "requires_grad", "layout", "key_layout", "sending",
    "watch",
)  # fmt: skip


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    score_mod: Function | None = None,
    mask_mod: Function | None = None,
    sinks: Tensor | None = None,
    group: Group = None,
    layout: Given = None,
    key_layout: Given = None,
) -> Tensor:
    """`pellucid.attention` of a sequence that lies on several ranks, each of which calls this with its own positions.

    Queries stay where they are; keys and values are sent. What a mask, a score function or a readout is told of a
    position is its place in the whole sequence. Gradients of query, key and value are those of the sum of the ranks'
    losses; tensors that all ranks have, sinks and what functions capture, get each rank's own share of theirs, as a
    model's weights do, to be summed over the ranks.

    Args:
        query: [..., heads, own queries, head_dim]: this rank's positions. They may be none.
        key: [..., heads, own keys, head_dim]; of cross-attention another sequence, sharded too.
        value: [..., heads, own keys, value_dim].
        attn_mask: of the whole call, the same on each rank: it broadcasts to [..., heads, q_len, k_len].
        dropout_p: see `pellucid.attention`; other weights are dropped than in a call of one process.
        is_causal: see `pellucid.attention`, like those that follow.
        scale: see `pellucid.attention`.
        enable_gqa: see `pellucid.attention`.
        score_mod: see `pellucid.attention`.
        mask_mod: see `pellucid.attention`.
        sinks: see `pellucid.attention`; of all heads.
        group: the ranks' process group; all of them if None.
        layout: which positions each rank has: a Layout, or "head_tail", which balances causal work; if None, or
            "contiguous", rank after rank, however many each has.
        key_layout: the same of keys; `layout` where they are as many as the queries, else rank after rank.

    Returns:
        [..., heads, own queries, value_dim], query's dtype.

    Raises:
        LostRankError: another rank has died or does not come to the call.
        TypeError: as `pellucid.attention`.
        ValueError: as `pellucid.attention`; ranks that do not agree on the call, or lengths that are not the layout's.

    """
    call = Arguments(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, score_mod, mask_mod, sinks)
    return beside_graphs(shared, UNCOMPILED, call, group, layout, key_layout)[0]


def observe(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    score_mod: Function | None = None,
    mask_mod: Function | None = None,
    sinks: Tensor | None = None,
    readouts: Iterable[Readout] | None = None,
    group: Group = None,
    layout: Given = None,
    key_layout: Given = None,
) -> tuple[Tensor, Observation]:
    """`pellucid.observe` of a sequence that lies on several ranks; see `attention`.

    Args:
        query: as in `attention`, like all that follow.
        key: see `attention`.
        value: see `attention`.
        attn_mask: see `attention`.
        dropout_p: see `attention`.
        is_causal: see `attention`.
        scale: see `attention`.
        enable_gqa: see `attention`.
        score_mod: see `attention`.
        mask_mod: see `attention`.
        sinks: see `attention`.
        readouts: see `pellucid.observe`; the same on each rank.
        group: see `attention`.
        layout: see `attention`.
        key_layout: see `attention`.

    Returns:
        The output of this rank's queries, and an observation: what describes rows (lse, entropy, top keys) is of this
        rank's queries, Received of this rank's keys and all queries, and maps (Pooled) and what joins rows of all.
        `weights(...)` and `dropped(...)` are asked by all ranks together.

    Raises:
        LostRankError: see `attention`.
        TypeError: as `pellucid.observe`; a readout that cannot be read in parts.
        ValueError: see `attention`, and `pellucid.observe`.

    """
    call = Arguments(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, score_mod, mask_mod, sinks)
    output, seen = beside_graphs(shared, UNCOMPILED, call, group, layout, key_layout, [readouts])
    assert seen is not None
    return output, seen


def shared(
    call: Arguments, group: Group, layout: Given, key_layout: Given, asked: list[Any] | None = None
) -> tuple[Tensor, Observation | None]:
    """The output of this rank's queries, and what was seen.

    Args:
        call: of this rank's queries and keys, its readouts not looked at.
        group: see `attention`, like those that follow.
        layout: see `attention`.
        key_layout: see `attention`.
        asked: the readouts argument of `observe`, in a list; None if nothing is to be seen.

    """
    made = agreed(call, group, (layout, key_layout), asked)
    output, seen = made.computed(asked is not None)
    return made.shaped(output), seen


def agreed(
    call: Arguments,
    group: Group,
    given: tuple[Given, Given],
    asked: list[Any] | None = None,
    watched: Sequence[str] = (),
) -> Posed:
    """A call of which each rank has its part, once all agree on it.

    Args:
        call: see `shared`.
        group: see `attention`.
        given: `layout` and `key_layout` of `attention`.
        asked: see `shared`.
        watched: in words what is read of it for who watches, which is the same on each rank.

    """
    _check_member(group)
    call, lengths = _together(call, group, asked)
    whole, shaped, queries, keys = _whole(call, lengths, given, group, watched)
    query, key, value = (t if t.ndim > 2 else t[None] for t in call[:3])
    return Posed(whole, query, key, value, queries, keys, group, shaped)


def _check_member(group: Group) -> None:
    if dist.get_world_size(group) < 1:
        raise ValueError("group: it must have this rank in it")


def agreed_problem(problem: Problem, group: Group, layout: Given, watched: Sequence[str] = ()) -> Posed:
    """The same of a call that is a problem, whose functions are of the whole sequence.

    Args:
        problem: of this rank's queries and keys, [*batch, heads, queries or keys, dim].
        group: see `attention`.
        layout: see `attention`.
        watched: see `agreed`.

    """
    _check_member(group)
    lengths = numbers_of_all(group, [problem.q_len, problem.k_len])
    own = (problem.query, problem.key, problem.value)
    fault: Exception | None = None
    whole = queries = keys = None
    try:
        queries, keys = _layouts((layout, layout if isinstance(layout, str) else None), lengths)
        query, key, value = (sized(t, n) for t, n in zip(own, (queries.length, *(keys.length,) * 2), strict=True))
        whole = replace(problem, query=query, key=key, value=value)
        check_captured(whole)
    except Exception as error:
        fault = error
    agree([group], fault, texts_of(None if fault else whole, own, queries, keys, watched))
    assert whole is not None
    assert queries is not None
    assert keys is not None
    return Posed(whole, *own, queries, keys, group, lambda tensor: tensor)


class Posed(NamedTuple):
    """A call that all ranks have agreed on.

    Attributes:
        whole: the call of all ranks.
        query: this rank's.
        key: this rank's.
        value: this rank's.
        queries: which of them each rank has.
        keys: the same of keys.
        group: the ranks.
        shaped: gives a result the inputs' rank again.

    """

    whole: Problem
    query: Tensor
    key: Tensor
    value: Tensor
    queries: Layout
    keys: Layout
    group: Group
    shaped: Callable[[Tensor], Tensor]

    def computed(self, observed: bool) -> tuple[Tensor, SharedObservation | None]:
        """The output of this rank's queries, and what was seen if that is asked."""
        regions = [Region.of_queries(self.whole, span) for span in self.queries.spans[dist.get_rank(self.group)]]
        regions = regions or [Region.of_queries(self.whole, range(0))]
        if travels(self.whole, self._is_followed):
            ring = Ring(regions, self.keys, self.group, as_it_is)
            rows = ring_gradients.computed(ring, *once_followed(self.query, self.key, self.value))
            if not reduced(is_rounded(rows.lse).any().int(), "max", self.group):
                return rows.output, self._seen_on_ring(ring, rows) if observed else None
        key, value = reached = gathered((self.key, self.value), self.keys, self.group)
        problems = posed(regions, self.query, key, value)
        check_numbers(self.whole, problems, [self.group])
        parts = computed(regions, problems)
        if not observed:
            return joined(Joining([None], self.group), [parts.output], reached)[0], None
        made = _joined(parts, reached, self.group)
        readings = {"lse": self.shaped(made.lse)}
        own_keys = self.keys.spans[dist.get_rank(self.group)]
        for readout in self.whole.readouts:
            readings[readout.name] = _reading(readout, made.readings[readout.name], parts, self.shaped, own_keys)
        return made.output, self._seen(parts, readings)

    @property
    def _is_followed(self) -> bool:
        whole = self.whole
        tensors = (self.query, self.key, self.value, *whole.captured, *(() if whole.sinks is None else (whole.sinks,)))
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)

    def _seen(self, parts: Parts, readings: dict[str, Any]) -> SharedObservation:
        key, keys, group = self.key.detach(), self.keys, self.group
        every = partial(_first_gathered, key, keys, group)
        given = weighing(self.query, self.key, self.whole)
        of_rank = OfRank(parts, self.query.detach(), every, as_it_is, [group], given)
        return SharedObservation(self.whole, readings, self.shaped, of_rank)

    def _seen_on_ring(self, ring: Ring, rows: Rows) -> SharedObservation:
        """What was read of rows whose keys came by; whoever asks for weights has the keys gathered."""
        readings = {"lse": self.shaped(rows.lse)}
        for readout in self.whole.readouts:
            own = rows.readings[readout.name]
            if readout.joins_rows:
                readings[readout.name] = reduced(readout.joined_rows(own), "max", self.group)
            else:
                readings[readout.name] = readout.map(own, self.shaped)
        return self._seen(parts_of_ring(ring, rows), readings)


def _first_gathered(key: Tensor, keys: Layout, group: Group) -> Tensor:
    return gathered((key,), keys, group)[0]


def parts_of_ring(ring: Ring, rows: Rows) -> Parts:
    """What a ring found, by the stretches of queries; of the output nothing."""
    lses = rows.lse.split([len(region.queries) for region in ring.regions], -1)
    return Parts(ring.whole, tuple(ring.regions), tuple(Result(lse.new_empty(0), lse, {}) for lse in lses))


def _together(call: Arguments, group: Group, asked: list[Any] | None) -> tuple[Arguments, list[list[int]]]:
    """The call, and how many queries and keys each rank has; where a rank's tensors are refused, all raise."""
    fault: Exception | None = None
    own = [0, 0, 0]
    try:
        query, key, value = map(as_autocast, call[:3])
        check_tensors(query, key, value)
        if asked is not None:
            call = call._replace(readouts=checked_readouts(asked[0], Observation))
        call, own = call._replace(query=query, key=key, value=value), [1, query.shape[-2], key.shape[-2]]
    except Exception as error:
        fault = error
    told = numbers_of_all(group, own)
    refuse_together(fault, [rank for rank, found in enumerate(told) if not found[0]])
    return call, [found[1:] for found in told]


def layout_of(name: str, given: Given, lengths: Sequence[int]) -> Layout:
    """The layout of a sequence of which the ranks have so many positions; `name` is the argument that is given.

    Raises:
        TypeError: something else than a layout or the name of one.
        ValueError: another name, or a layout of other lengths.

    """
    if isinstance(given, str):
        named = layouts.named(name, given)
        given = None if named is layouts.even else named(sum(lengths), len(lengths))
    if given is None:
        return layouts.of_lengths(lengths)
    if not isinstance(given, Layout):
        raise TypeError(f"{name}: a Layout or its name is needed, got {type(given).__name__}")
    if given.lengths != tuple(lengths):
        raise ValueError(f"{name}: the ranks have {list(lengths)} positions, and it says {list(given.lengths)}")
    return given


def own_spans(group: Group, given: Given, length: int) -> Spans:
    """The stretches of positions of this rank, which has so many, in a layout as `attention` takes it."""
    lengths = [own[0] for own in numbers_of_all(group, [length])]
    return layout_of("layout", given, lengths).spans[dist.get_rank(group)]


def _key_layout(given: Given, queries: Layout, lengths: list[int]) -> Layout:
    if given is None and queries.lengths == tuple(lengths):
        return queries
    return layout_of("key_layout", given, lengths)


def _layouts(given: tuple[Given, Given], lengths: list[list[int]]) -> tuple[Layout, Layout]:
    """Where queries and keys lie, of which the ranks have so many; raises as `layout_of`."""
    queries = layout_of("layout", given[0], [own[0] for own in lengths])
    return queries, _key_layout(given[1], queries, [own[1] for own in lengths])


def _whole(
    call: Arguments, lengths: list[list[int]], given: tuple[Given, Given], group: Group, watched: Sequence[str]
) -> tuple[Problem, Callable[[Tensor], Tensor], Layout, Layout]:
    """The call of all ranks, whose query, key and value have sizes and no numbers, and where its queries and keys lie.

    All raise where one refuses it.
    """
    fault: Exception | None = None
    whole = shaped = queries = keys = None
    try:
        queries, keys = _layouts(given, lengths)
        query = sized(call.query, queries.length)
        key, value = (sized(tensor, keys.length) for tensor in (call.key, call.value))
        whole, shaped = describe(call._replace(query=query, key=key, value=value))
        check_parts(whole)
    except Exception as error:  # a user's function may raise anything
        fault = error
    agree([group], fault, texts_of(None if fault else whole, call[:3], queries, keys, watched))
    assert whole is not None
    assert shaped is not None
    assert queries is not None
    assert keys is not None
    return whole, shaped, queries, keys


def sized(tensor: Tensor, length: int) -> Tensor:
    """A tensor of a rank's dtype, device and sizes but for the whole sequence's length, with no numbers in it."""
    return tensor.new_empty(()).expand(*tensor.shape[:-2], length, tensor.shape[-1])


def texts_of(
    whole: Problem | None,
    own: Sequence[Tensor],
    queries: Layout | None = None,
    keys: Layout | None = None,
    watched: Sequence[str] = (),
) -> dict[str, Any]:
    """What ranks must agree on, by the argument that it is of; nothing of a call that is refused.

    Args:
        whole: the call of all ranks.
        own: this rank's query, key and value.
        queries: the layout of the queries.
        keys: the layout of the keys.
        watched: see `agreed`.

    """
    if whole is None:
        return dict.fromkeys(TOLD)
    given = (whole.query, whole.key, whole.value)
    return dict(
        zip(
            TOLD,
            (
                *((tuple(tensor.shape), tensor.dtype) for tensor in given),
                None if whole.sinks is None else _contents(whole.sinks),
                whole.scale,
                whole.dropout_p,
                _written(whole.score),
                _written(whole.mask),
                [
                    (type(readout).__name__, readout.name, readout.numbers, *map(_written, readout.expressions))
                    for readout in whole.readouts
                ],
                [torch.is_grad_enabled(), *(tensor.requires_grad for tensor in (*own, *given_beside(whole)))],
                queries,
                keys,
                chosen(),
                watched,
            ),
            strict=True,
        )
    )


def given_beside(whole: Problem) -> list[Tensor]:
    """Sinks and captured tensors, which are as the user gave them."""
    sinks = [] if whole.sinks is None else [whole.sinks]
    return [*sinks, *(load.value for load in whole.loads)]


def weighing(query: Tensor, key: Tensor, whole: Problem) -> list[Tensor]:
    """The tensors that weights of a call are computed from, of this rank's query and key."""
    return [query, key, *given_beside(replace(whole, readouts=()))]


def _written(function: Any) -> tuple[str, list[Any]]:
    text, captured = write(function)
    return text, list(map(_contents, captured))


def _contents(tensor: Tensor) -> tuple[Any, ...]:
    """What is compared of a tensor that all ranks have: its numbers too, or where those of a DTensor lie."""
    return tuple(tensor.shape), tensor.dtype, getattr(tensor, "placements", None) or bits.told(tensor)


def _joined(parts: Parts, reached: tuple[Tensor, ...], group: Group) -> Result:
    """A rank's results, those that are of all ranks joined."""
    mine = [parts.result(readout) for readout in parts.sizes.readouts]
    flat = [parts.output, parts.lse, *(tensor for result in mine for tensor in tensors_of(result))]
    ways = [
        readout.joined_by
        for readout, result in zip(parts.sizes.readouts, mine, strict=True)
        for _ in tensors_of(result)
    ]
    made = iter(joined(Joining([None, None, *ways], group), flat, reached))
    output, lse = next(made), next(made)
    return Result(output, lse, {readout.name: readout.result_of(made) for readout in parts.sizes.readouts})


def _reading(readout: Readout, found: Any, parts: Parts, shaped: Callable[[Tensor], Tensor], own_keys: Spans) -> Any:
    """What a rank's caller gets of a readout."""
    if isinstance(readout, ColumnReadout):
        found = readout.finish(found.clone(), parts.sizes)
        if readout.of_keys:
            found = torch.cat([found[..., span.start : span.stop] for span in (*own_keys, range(0))], -1)
    return readout.map(found, shaped) if readout.per_head and not readout.joins_rows else found

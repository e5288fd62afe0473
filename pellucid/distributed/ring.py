"""Keys and values that travel from rank to rank, so that none ever holds them all (Liu, Zaharia and Abbeel 2023).

Each rank's queries meet one rank's keys after another's; what they give merges by lse as ranges of keys do. While one
rank's are computed the next one's are on their way. Backward they travel again, and their gradients with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from pellucid.distributed.exchange import Group, reaching
from pellucid.distributed.layout import Layout, Spans
from pellucid.distributed.region import Own, Region
from pellucid.engines.executing import executed, joined
from pellucid.language import TRUE, Interval, bounds, walk
from pellucid.problem import Problem
from pellucid.readouts import LogSumExp, Readout
from pellucid.readouts.base import RowReadout
from pellucid.softmax import finite
from pellucid.tensors.once import once

# Keys of a rank that travel at a time are so many, or more where they have fewer bytes; in so many pieces at most.
LEAST_PIECE, PIECE_BYTES, MOST_PIECES = 1024, 2 << 20, 16
FEW = 4  # stretches of a rank's keys, of each of which a piece has a part
ROWS = 8192  # queries that meet a piece at a time


class Piece(NamedTuple):
    """A part of each rank's keys."""

    spans: Sequence[Spans]  # of each rank
    places: Sequence[tuple[slice, ...]]  # where each of them lies among the rank's own positions

    @property
    def lengths(self) -> list[int]:
        """How many keys of each rank."""
        return [sum(map(len, own)) for own in self.spans]

    def of(self, tensor: Tensor, rank: int) -> list[Tensor]:
        """Of a rank's own [..., positions, dim], what lies at its places, as views."""
        return [tensor[..., place, :] for place in self.places[rank]]


@dataclass(frozen=True)
class Ring:
    """What of a call travels, and where.

    Attributes:
        regions: of this rank's queries, one after another.
        keys: which of them each rank has.
        group: of the ranks.
        own: see `Region.problem`.

    """

    regions: Sequence[Region]
    keys: Layout
    group: Group
    own: Own

    @property
    def whole(self) -> Problem:
        """The call of all ranks."""
        return self.regions[0].whole

    @property
    def rank(self) -> int:
        """Of this process."""
        return dist.get_rank(self.group)

    @once
    def pieces(self) -> list[Piece]:
        """What travels at a time, of which a rank holds three beside its own keys."""
        keys = max(LEAST_PIECE, PIECE_BYTES // max(self._bytes_a_key, 1))
        count = max(1, min(MOST_PIECES, max(self.keys.lengths) // keys))
        # A part of each stretch, so that ranks which are balanced over all keys are so over each piece.
        cut = _each_cut if max(map(len, self.keys.spans)) <= FEW else _cut
        return [Piece(*zip(*(cut(own, part, count) for own in self.keys.spans), strict=True)) for part in range(count)]

    @property
    def _bytes_a_key(self) -> int:
        """Of key and value, in all heads and sequences of this rank."""
        return sum(t[..., :1, :].numel() * t.element_size() for t in (self.whole.key, self.whole.value))

    def pairs(self, piece: Piece, source: int, together: int) -> Iterator[tuple[Region, slice, slice]]:
        """The stretches of queries and of a piece of a rank's keys that may look at one another, and where they lie.

        Where all may, the region's call has no mask.

        Args:
            piece: which.
            source: whose keys.
            together: queries of a stretch, at most.

        """
        at = 0
        for region in self.regions:
            for start in range(0, len(region.queries), together):
                queries = region.queries[start : start + together]
                rows = slice(at + start, at + start + len(queries))
                for keys, columns, every in self._looked_at(queries, piece.spans[source]):
                    whole = replace(region.whole, mask=TRUE) if every else region.whole
                    yield replace(region, whole=whole, queries=queries, keys=keys), rows, columns
            at += len(region.queries)

    def _looked_at(self, queries: range, spans: Spans) -> list[tuple[range, slice, bool]]:
        """The stretches of keys of which these queries may look at some, where they lie, and whether all may be."""
        found, at = list[tuple[range, slice, bool]](), 0
        for span in spans:
            allowed = self._allowed(queries, span) if len(span) else Interval(False, False)
            before = found[-1] if found else None
            if before and before[2] and allowed.low and before[1].stop == at and not self._reads_keys:
                # Neighbours where they lie: which keys they are is nobody's concern.
                first = before[0].start
                found[-1] = (
                    range(first, first + len(before[0]) + len(span)),
                    slice(before[1].start, at + len(span)),
                    True,
                )
            elif allowed.high:
                found.append((span, slice(at, at + len(span)), bool(allowed.low)))
            at += len(span)
        return found

    @once
    def _reads_keys(self) -> bool:
        """Whether a function but the mask reads which key it is."""
        read = walk(self.whole.score, *(root for readout in self.whole.readouts for root in readout.expressions))
        return any(node.op == "input" and node.value == "k" for node in read)

    def _allowed(self, queries: range, keys: range) -> Interval:
        """Whether some of these keys may be looked at, and whether all may."""
        whole = self.whole
        places = {
            "b": Interval(0, max(torch.Size(whole.batch).numel() - 1, 0)),
            "h": Interval(0, max(whole.heads - 1, 0)),
            "q": Interval(queries.start, queries.stop - 1),
            "k": Interval(keys.start, keys.stop - 1),
        }
        return bounds(whole.mask, places) or Interval(False, True)

    def travelling(self, own: Sequence[Tensor]) -> Iterator[tuple[Piece, int, tuple[Tensor, ...]]]:
        """Each rank's tensors: first one's own, then others' piece by piece; the next come while these are used.

        Args:
            own: this rank's, [..., positions, dim].

        Returns:
            What they are of all keys, whose, and the tensors, which are others' once the next are asked for.

        """
        ranks = self.keys.ranks
        order = [(piece, step) for piece in self.pieces for step in range(1, ranks)]
        most = max((max(piece.lengths) for piece, _ in order), default=0)
        # What is used, what comes meanwhile, and what of one's own is sent.
        used, other, sent = ([_like(tensor, most).flatten() for tensor in own] for _ in range(3))

        def laid(memory: Sequence[Tensor], length: int) -> tuple[Tensor, ...]:
            shapes = ((*tensor.shape[:-2], length, tensor.shape[-1]) for tensor in own)
            return tuple(m[: math.prod(shape)].view(shape) for m, shape in zip(memory, shapes, strict=True))

        def asked_for(number: int) -> tuple[tuple[Tensor, ...], list[Any]]:
            piece, step = order[number]
            passed = here
            if step == 1:
                passed = laid(sent, piece.lengths[self.rank])
                for tensor, new in zip(own, passed, strict=True):
                    if new.numel():
                        torch.cat(piece.of(tensor, self.rank), -2, out=new)
            coming = laid(other, piece.lengths[(self.rank - step) % ranks])
            return coming, self.passed_on(passed, coming)

        piece, source, here = Piece(self.keys.spans, ()), self.rank, tuple(own)
        for number, (next_piece, step) in enumerate(order):
            coming, posted = asked_for(number)
            yield piece, source, here
            wait(posted)
            piece, source, here = next_piece, (self.rank - step) % ranks, coming
            used, other = other, used
        yield piece, source, here

    def passed_on(self, sent: Sequence[Tensor], received: Sequence[Tensor], tag: int = 0) -> list[Any]:
        """Send to the next of several ranks, and receive from the one before; done once `wait` says so."""
        after, before = ((self.rank + step) % self.keys.ranks for step in (1, -1))
        asked = []
        for out, new in zip(sent, received, strict=True):
            asked += [dist.P2POp(dist.isend, out, group=self.group, tag=tag, group_peer=after)] if out.numel() else []
            asked += [dist.P2POp(dist.irecv, new, group=self.group, tag=tag, group_peer=before)] if new.numel() else []
        with reaching("keys and values travel"):
            return dist.batch_isend_irecv(asked) if asked else []


def _cut(spans: Spans, part: int, parts: int) -> tuple[Spans, tuple[slice, ...]]:
    """One of several parts, as equal as can be, of a rank's stretches, and where they lie among its positions."""
    length = sum(map(len, spans))
    first, stop, at = length * part // parts, length * (part + 1) // parts, 0
    found, places = list[range](), list[slice]()
    for span in spans:
        own = span[max(first - at, 0) : max(stop - at, 0)]
        found.append(own)
        places.append(slice(max(first, at), max(first, at) + len(own)))
        at += len(span)
    return tuple(found), tuple(places)


def _each_cut(spans: Spans, part: int, parts: int) -> tuple[Spans, tuple[slice, ...]]:
    """One of several parts of each stretch; see `_cut`."""
    found, places, at = list[range](), list[slice](), 0
    for span in spans:
        first, stop = len(span) * part // parts, len(span) * (part + 1) // parts
        found.append(span[first:stop])
        places.append(slice(at + first, at + stop))
        at += len(span)
    return tuple(found), tuple(places)


def wait(posted: Sequence[Any]) -> None:
    """Until what was sent is, and what is received is here."""
    with reaching("keys and values travel"):
        for work in posted:
            work.wait()


def _like(tensor: Tensor, length: int) -> Tensor:
    return tensor.new_empty(*tensor.shape[:-2], length, tensor.shape[-1])


def why_not(whole: Problem, followed: bool) -> str | None:
    """Why keys and values do not travel but are gathered; None if they may.

    Args:
        whole: the call.
        followed: whether autograd follows it.

    """
    if torch.compiler.is_compiling():
        return "a graph holds no sends between ranks"
    if any(isinstance(load.value, DTensor) for load in whole.loads):
        return "a captured DTensor is brought together by all ranks at once, and stretches are of each rank alone"
    if whole.dropout_p:
        return "of dropout each query decides over all keys"
    for readout in whole.readouts:
        if not _joins_ranges(readout):
            return f"{type(readout).__name__} cannot be told from what ranges of keys give"
        if followed and readout.differentiable and not readout.is_lse:
            return f"the gradient of {type(readout).__name__} needs all keys"
    return None


def _joins_ranges(readout: Readout) -> bool:
    return isinstance(readout, RowReadout) and type(readout).of_ranges is not RowReadout.of_ranges


# Bytes of keys and values of all ranks, from which on they travel rather than be gathered.
LARGE = 32 << 20
WAYS = ("ring", "gather")
_chosen: ContextVar[str | None] = ContextVar("pellucid_sending", default=None)


@contextmanager
def sending(way: str) -> Iterator[None]:
    """Send keys and values of a sharded sequence in one way, inside the `with`, on every rank alike.

    What torch.compile makes a graph of gathers them.

    Args:
        way: "ring", in which no rank ever holds all of them, or "gather".

    Raises:
        ValueError: another way; a call inside whose keys cannot travel in a ring.

    """
    if way not in WAYS:
        raise ValueError(f"way: one of {', '.join(WAYS)} is needed, got {way!r}")
    token = _chosen.set(way)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen() -> str | None:
    """The way that `sending` has chosen here; none in a graph, which holds no sends between ranks."""
    return None if torch.compiler.is_compiling() else _chosen.get()


def travels(whole: Problem, followed: bool) -> bool:
    """Whether keys and values travel rather than be gathered.

    Args:
        whole: the call.
        followed: whether autograd follows it.

    Raises:
        ValueError: they are to, and cannot.

    """
    way, reason = chosen(), why_not(whole, followed)
    if way == "ring" and reason is not None:
        raise ValueError(f"sending: this call's keys cannot travel in a ring: {reason}")
    if way is not None or reason is not None:
        return way == "ring"
    size = sum(tensor.numel() * tensor.element_size() for tensor in (whole.key, whole.value))
    return size > LARGE


class Rows(NamedTuple):
    """What a rank's queries have of the keys that came by."""

    output: Tensor  # [*batch, heads, queries, value_dim], in the precision of sums
    lse: Tensor  # [*batch, heads, queries]
    readings: dict[str, Any]


def forward(ring: Ring, query: Tensor, key: Tensor, value: Tensor) -> Rows:
    """Output, lse and what is read of this rank's queries, over the keys of all ranks.

    Args:
        ring: see `Ring`.
        query: of its regions, one after another.
        key: this rank's.
        value: theirs.

    """
    found = _begun(ring, query, key, value)
    for piece, source, (keys, values) in ring.travelling((key, value)):
        for region, rows, columns in ring.pairs(piece, source, ROWS):
            problem = _problem(ring, region, query[..., rows, :], keys[..., columns, :], values[..., columns, :])
            _merge(problem, found, rows)
    return _with_sinks(ring, found)


def _begun(ring: Ring, query: Tensor, key: Tensor, value: Tensor) -> Rows:
    """The rows of all this rank's queries, over no keys yet."""
    one, count = query[..., :1, :], query.shape[-2]
    region = replace(ring.regions[0], queries=range(one.shape[-2]), keys=range(0))
    problem = _problem(ring, region, one, key[..., :0, :], value[..., :0, :])
    row = executed(problem)
    readings = {
        readout.name: row.readings[readout.name].repeat_interleave(count, readout.queries_at(problem))
        for readout in problem.readouts
        if isinstance(readout, RowReadout)
    }
    lse = row.lse.repeat_interleave(count, -1)
    return Rows(query.new_zeros(*lse.shape, value.shape[-1], dtype=problem.dtype), lse, readings)


def _problem(ring: Ring, region: Region, query: Tensor, key: Tensor, value: Tensor) -> Problem:
    """What a stretch of queries has to do with a stretch of keys; its readouts say its lse."""
    problem = replace(region.problem(query, key, value, ring.own), sinks=None)
    return problem if problem.readouts else replace(problem, readouts=(LogSumExp(),))


def _merge(problem: Problem, found: Rows, rows: slice) -> None:
    """Let what some rows have of further keys become part of what they have, in place."""
    before, output = found.lse[..., rows], found.output[..., rows, :]
    read = [r for r in problem.readouts if isinstance(r, RowReadout) and not r.is_lse]
    lse = before.clone(memory_format=torch.contiguous_format)
    part = joined(problem if read else replace(problem, readouts=()), output, lse)
    if part is None:
        part = executed(problem)
        lse = torch.logaddexp(before, part.lse)
        output.mul_(_share(before, lse)[..., None]).add_(part.output * _share(part.lse, lse)[..., None])
    if read:
        shares = _share(before, lse), _share(part.lse, lse)
        for readout in read:
            own = found.readings[readout.name]
            own[..., rows] = readout.of_ranges(own[..., rows], part.readings[readout.name], shares)
    found.lse[..., rows] = lse


def _share(own: Tensor, whole: Tensor) -> Tensor:
    return torch.exp(own - finite(whole))


def _with_sinks(ring: Ring, rows: Rows) -> Rows:
    """The whole rows, each head's sink, if it has one, as one more key without a value."""
    sinks, lse, shares = ring.regions[0].sinks(ring.own), rows.lse, None
    if sinks is not None:
        sink = sinks.detach().to(lse.dtype)[:, None].expand_as(lse)
        lse = torch.logaddexp(rows.lse, sink)
        shares = _share(rows.lse, lse), _share(sink, lse)
        rows.output.mul_(shares[0][..., None])
    readings = dict(rows.readings)
    for readout in ring.whole.readouts:
        if readout.is_lse:
            readings[readout.name] = lse
        elif shares is not None and isinstance(readout, RowReadout):
            readings[readout.name] = readout.of_ranges(readings[readout.name], None, shares)
    return Rows(rows.output, lse, readings)

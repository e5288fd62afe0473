"""Keys and values that travel from rank to rank, so that none ever holds them all (Liu, Zaharia and Abbeel 2023).

Each rank's queries meet one rank's keys after another's; what they give merges by lse as ranges of keys do. While one
rank's are computed the next one's are on their way. Backward they travel again, and their gradients with them.
"""

from __future__ import annotations

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
from pellucid.engines.executing import executed
from pellucid.language import TRUE, Interval, bounds
from pellucid.problem import Problem
from pellucid.readouts import LogSumExp, Readout
from pellucid.readouts.base import RowReadout
from pellucid.softmax import finite
from pellucid.tensors.once import once

PIECE, MOST_PIECES = 2048, 8  # keys of a rank that travel at a time, and in how many pieces they do at most
ROWS = 4096  # queries whose results are merged at a time


class Piece(NamedTuple):
    """A part of each rank's keys."""

    spans: tuple[Spans, ...]  # of each rank

    @property
    def lengths(self) -> list[int]:
        """How many keys of each rank."""
        return [sum(map(len, own)) for own in self.spans]


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
        """What travels at a time, of which a rank holds two beside its own keys."""
        count = max(1, min(MOST_PIECES, max(self.keys.lengths) // PIECE))
        cut = [[_cut(own, part, count) for own in self.keys.spans] for part in range(count)]
        return [Piece(tuple(spans)) for spans in cut]

    def pairs(self, piece: Piece, source: int) -> Iterator[tuple[Region, slice, slice]]:
        """The stretches of queries and of a piece of a rank's keys that may look at one another, and where they lie.

        Where all may, the region's call has no mask.
        """
        at = 0
        for region in self.regions:
            key_at = 0
            for span in piece.spans[source]:
                columns = slice(key_at, key_at + len(span))
                for start in range(0, len(region.queries), ROWS):
                    queries = region.queries[start : start + ROWS]
                    allowed = self._allowed(queries, span)
                    if allowed.high:
                        whole = replace(region.whole, mask=TRUE) if allowed.low else region.whole
                        rows = slice(at + start, at + start + len(queries))
                        yield replace(region, whole=whole, queries=queries, keys=span), rows, columns
                key_at += len(span)
            at += len(region.queries)

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

    def travelling(self, own: Sequence[Tensor]) -> Iterator[tuple[Piece, int, range, tuple[Tensor, ...]]]:
        """Each piece of each rank's tensors, beginning with one's own; the next come while these are used.

        Args:
            own: this rank's, [..., positions, dim].

        Returns:
            The piece, whose it is, where it begins and ends among the rank's own positions, and the tensors.

        """
        at = [0] * self.keys.ranks
        for piece in self.pieces:
            start = at[self.rank]
            here = tuple(tensor[..., start : start + piece.lengths[self.rank], :].contiguous() for tensor in own)
            for step in range(self.keys.ranks):
                source = (self.rank - step) % self.keys.ranks
                last = step + 1 == self.keys.ranks
                nxt = () if last else tuple(_like(t, piece.lengths[(source - 1) % self.keys.ranks]) for t in here)
                posted = [] if last else self.passed_on(here, nxt)
                yield piece, source, range(at[source], at[source] + piece.lengths[source]), here
                wait(posted)
                here = nxt
            at = [begun + length for begun, length in zip(at, piece.lengths, strict=True)]

    def passed_on(self, sent: Sequence[Tensor], received: Sequence[Tensor], tag: int = 0) -> list[Any]:
        """Send to the next rank, and receive from the one before; done once `wait` says so."""
        ranks = self.keys.ranks
        after, before = ((self.rank + step) % ranks for step in (1, -1))
        if ranks == 1:
            for out, new in zip(sent, received, strict=True):
                new.copy_(out)
            return []
        asked = []
        for out, new in zip(sent, received, strict=True):
            asked += [dist.P2POp(dist.isend, out, group=self.group, tag=tag, group_peer=after)] if out.numel() else []
            asked += [dist.P2POp(dist.irecv, new, group=self.group, tag=tag, group_peer=before)] if new.numel() else []
        with reaching("keys and values travel"):
            return dist.batch_isend_irecv(asked) if asked else []


def _cut(spans: Sequence[range], part: int, parts: int) -> tuple[range, ...]:
    """One of several parts, as equal as can be, of a rank's stretches."""
    length = sum(map(len, spans))
    first, stop, found, at = length * part // parts, length * (part + 1) // parts, [], 0
    for span in spans:
        own = span[max(first - at, 0) : max(stop - at, 0)]
        found += [own] if len(own) else []
        at += len(span)
    return tuple(found)


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
    for piece, source, _, (keys, values) in ring.travelling((key, value)):
        for region, rows, columns in ring.pairs(piece, source):
            part = _part(ring, region, query[..., rows, :], keys[..., columns, :], values[..., columns, :])
            _merge(ring.whole, found, part, rows)
    return _with_sinks(ring, found)


def _begun(ring: Ring, query: Tensor, key: Tensor, value: Tensor) -> Rows:
    """The rows of all this rank's queries, over no keys yet."""
    region = replace(ring.regions[0], queries=range(query.shape[-2]), keys=range(0))
    rows = _part(ring, region, query, key[..., :0, :], value[..., :0, :])
    readings = {name: own.clone() for name, own in rows.readings.items()}
    return Rows(rows.output.contiguous(), rows.lse.clone(), readings)


def _part(ring: Ring, region: Region, query: Tensor, key: Tensor, value: Tensor) -> Rows:
    problem = replace(region.problem(query, key, value, ring.own), sinks=None)
    if not problem.readouts:
        problem = replace(problem, readouts=(LogSumExp(),))
    result = executed(problem)
    return Rows(result.output.to(problem.dtype), result.lse, result.readings)


def _merge(whole: Problem, found: Rows, part: Rows, rows: slice) -> None:
    """Let what some rows have of further keys become part of what they have, in place."""
    before = found.lse[..., rows]
    lse = torch.logaddexp(before, part.lse)
    shares = _share(before, lse), _share(part.lse, lse)
    found.output[..., rows, :].mul_(shares[0][..., None]).add_(part.output.mul_(shares[1][..., None]))
    for readout in whole.readouts:
        if isinstance(readout, RowReadout) and not readout.is_lse:
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

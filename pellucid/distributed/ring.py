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

from pellucid.distributed.exchange import Group, reaching
from pellucid.distributed.layout import Layout
from pellucid.distributed.region import Own, Region
from pellucid.engines.executing import executed
from pellucid.language import Interval, bounds
from pellucid.problem import Problem
from pellucid.readouts import LogSumExp, Readout
from pellucid.readouts.base import RowReadout
from pellucid.softmax import finite


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

    def pairs(self, source: int) -> Iterator[tuple[Region, slice, slice]]:
        """The stretches of queries and of a rank's keys that may look at one another, and where they lie in tensors."""
        at = 0
        for region in self.regions:
            rows, key_at = slice(at, at + len(region.queries)), 0
            for span in self.keys.spans[source]:
                columns = slice(key_at, key_at + len(span))
                if len(span) and len(region.queries) and self._may_look(region, span):
                    yield replace(region, keys=span), rows, columns
                key_at += len(span)
            at += len(region.queries)

    def _may_look(self, region: Region, keys: range) -> bool:
        whole = self.whole
        places = {
            "b": Interval(0, max(torch.Size(whole.batch).numel() - 1, 0)),
            "h": Interval(0, max(whole.heads - 1, 0)),
            "q": Interval(region.queries.start, region.queries.stop - 1),
            "k": Interval(keys.start, keys.stop - 1),
        }
        allowed = bounds(whole.mask, places)
        return allowed is None or bool(allowed.high)

    def travelling(self, own: Sequence[Tensor]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Each rank's tensors, [..., positions, dim], beginning with one's own; the next come while these are used."""
        here = tuple(tensor.contiguous() for tensor in own)
        for step in range(self.keys.ranks):
            source = (self.rank - step) % self.keys.ranks
            last = step + 1 == self.keys.ranks
            nxt = () if last else tuple(_like(t, self.keys.lengths[(source - 1) % self.keys.ranks]) for t in here)
            posted = [] if last else self.passed_on(here, nxt)
            yield source, here
            wait(posted)
            here = nxt

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
    if followed and any(
        type(tensor) is not Tensor and not isinstance(tensor, torch.nn.Parameter) for tensor in whole.captured
    ):
        return "the gradient of a captured DTensor is summed over ranks"
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


def travels(whole: Problem, followed: bool) -> bool:
    """Whether keys and values travel rather than be gathered.

    Args:
        whole: the call.
        followed: whether autograd follows it.

    Raises:
        ValueError: they are to, and cannot.

    """
    chosen, reason = _chosen.get(), why_not(whole, followed)
    if chosen == "ring" and reason is not None:
        raise ValueError(f"sending: this call's keys cannot travel in a ring: {reason}")
    if chosen is not None or reason is not None:
        return chosen == "ring"
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
    whole = ring.whole
    length = query.shape[-2]
    found: list[Rows | None] = [None] * len(ring.regions)
    places = {region.queries: place for place, region in enumerate(ring.regions)}
    for source, (keys, values) in ring.travelling((key, value)):
        for region, rows, columns in ring.pairs(source):
            part = _part(ring, region, query[..., rows, :], keys[..., columns, :], values[..., columns, :])
            place = places[region.queries]
            before = found[place]
            found[place] = part if before is None else _merged(whole, before, part)
    done = [
        rows if rows is not None else _empty(ring, region, query, key, value)
        for region, rows in zip(ring.regions, found, strict=True)
    ]
    assert sum(rows.lse.shape[-1] for rows in done) == length
    at = len(whole.batch)
    joined = Rows(
        torch.cat([rows.output for rows in done], -2),
        torch.cat([rows.lse for rows in done], -1),
        {r.name: torch.cat([rows.readings[r.name] for rows in done], at + r.per_head) for r in whole.readouts},
    )
    return _with_sinks(ring, joined)


def _part(ring: Ring, region: Region, query: Tensor, key: Tensor, value: Tensor) -> Rows:
    problem = _of_range(region.problem(query, key, value, ring.own))
    if not problem.readouts:
        problem = replace(problem, readouts=(LogSumExp(),))
    result = executed(problem)
    return Rows(result.output.to(problem.dtype), result.lse, result.readings)


def _of_range(problem: Problem) -> Problem:
    """Without what is no key."""
    return replace(problem, sinks=None)


def _empty(ring: Ring, region: Region, query: Tensor, key: Tensor, value: Tensor) -> Rows:
    """Of queries that may look at no key."""
    none = replace(region, keys=range(0))
    rows = query[..., : len(region.queries), :]
    return _part(ring, none, rows, key[..., :0, :], value[..., :0, :])


def _merged(whole: Problem, left: Rows, right: Rows) -> Rows:
    lse = torch.logaddexp(left.lse, right.lse)
    shares = _share(left.lse, lse), _share(right.lse, lse)
    output = left.output * shares[0][..., None] + right.output * shares[1][..., None]
    readings = {
        r.name: lse if r.is_lse else r.of_ranges(left.readings[r.name], right.readings[r.name], shares)
        for r in whole.readouts
        if isinstance(r, RowReadout)
    }
    return Rows(output, lse, readings)


def _share(own: Tensor, whole: Tensor) -> Tensor:
    return torch.exp(own - finite(whole))


def _with_sinks(ring: Ring, rows: Rows) -> Rows:
    """The same with each head's sink, if it has one, as one more key without a value."""
    sinks = ring.regions[0].sinks(ring.own)
    if sinks is None:
        return rows
    sink = sinks.detach().to(rows.lse.dtype)[:, None].expand_as(rows.lse)
    lse = torch.logaddexp(rows.lse, sink)
    shares = _share(rows.lse, lse), _share(sink, lse)
    readings = {
        r.name: lse if r.is_lse else r.of_ranges(rows.readings[r.name], None, shares)
        for r in ring.whole.readouts
        if isinstance(r, RowReadout)
    }
    return Rows(rows.output * shares[0][..., None], lse, readings)

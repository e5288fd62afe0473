"""The last queries of a layer, held as long as its cache may take them back: sums over queries are then corrected."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.capture.calls.call import Call
from pellucid.capture.calls.keeping import forbidden, part_of
from pellucid.record.layer import Layer
from pellucid.record.part import Part
from pellucid.softmax import finite

ROWS = 64  # queries held at most: more candidates than anybody proposes at once
WHOLE = (
    1e-2  # how far from 1 a row's weights may sum, in any dtype, where keys and functions are those it was read with
)


@dataclass(frozen=True)
class Recent:
    """The last queries of a layer, a part a call, all in the keys of the last call, which are the cache's own."""

    parts: tuple[Part, ...] = ()

    def extended(self, call: Call, start: int) -> Recent:
        """These and the queries of one more call, of all heads; without the first where they are too many."""
        if call.by_hand and call.q_len > ROWS:  # it would hold all of the call's scores
            return Recent()
        new = part_of(call, start, None)
        if new.q_len > ROWS:
            new = replace(new, start=new.start + new.q_len - ROWS, query=new.query[:, :, -ROWS:].clone())
        parts, rows = [new], new.q_len
        for part in reversed(self.parts):
            rows += part.q_len
            if rows > ROWS or part.k_start != new.k_start or part.start + part.q_len > parts[-1].start:
                break
            parts.append(replace(part, key=new.key[:, :, : part.k_len]))
        return Recent(tuple(reversed(parts)))

    def is_on(self, call: Call, start: int) -> bool:
        """Whether a call, whose first query is at `start`, has the keys of these queries before it; so too of none."""
        if not self.parts:
            return True
        last = self.parts[-1]
        first, end = max(last.k_start, call.k_start), min(last.k_start + last.k_len, start)
        mine = last.key[:, :, max(0, first - last.k_start) : max(0, end - last.k_start)]
        its = call.problem.key[:, :, max(0, first - call.k_start) : max(0, end - call.k_start)]
        return mine.shape == its.shape and torch.equal(mine, its)

    def before(self, end: int) -> Recent:
        """The queries at positions before `end`."""
        kept = [part for part in self.parts if part.start < end]
        return Recent(tuple(replace(part, query=part.query[:, :, : end - part.start]) for part in kept))

    def is_closed(self, end: int) -> bool:
        """Whether no query before `end` may look at a key from there on, as far as it is known."""
        key_ends = (part.k_start + part.k_len for part in self.parts)
        return all(
            forbidden(part, range(part.start, min(end, part.start + part.q_len)), range(end, key_end))
            for part, key_end in zip(self.parts, key_ends, strict=True)
        )

    def received(self, layer: Layer, end: int, k_len: int) -> Tensor | None:
        """What the first `k_len` keys received from the layer's queries from `end` on, [batch, heads, k_len].

        None where these queries are not all held, or no longer with the keys that they were read with: then the weights
        of a row do not sum to 1.
        """
        removed = range(end, layer.start + layer.q_len)
        mine = [part for part in self.parts if part.start + part.q_len > end]
        if sum(min(part.q_len, part.start + part.q_len - end) for part in mine) != len(removed):
            return None
        total = layer.readings["lse"].new_zeros(layer.batch, layer.heads, k_len)
        for part in mine:
            rows = torch.arange(max(end, part.start), part.start + part.q_len, device="cpu")
            weights = _weights(part, layer, rows)
            if weights is None:
                return None
            seen = weights.sum(-2)[..., : max(0, k_len - part.k_start)]
            total[..., part.k_start : part.k_start + seen.shape[-1]] += seen
        return total


def _weights(part: Part, layer: Layer, rows: Tensor) -> Tensor | None:
    """The weights of some rows on all keys of a part, rows of padding 0; None unless each row is whole."""
    device = part.query.device
    own = rows - layer.start
    lse = layer.readings["lse"].detach()[..., own]
    heads = torch.tensor(layer.head_numbers, device=device)
    scores = part.scores(rows.to(device), torch.arange(part.k_len, device=device), heads)
    weights = torch.exp(scores - finite(lse.to(scores.dtype))[..., None])
    if layer.padding.queries is not None:
        padded = layer.padding.queries[:, None, own, None].to(device)
        weights, lse = weights.masked_fill(padded, 0.0), lse.masked_fill(padded[..., 0], -torch.inf)
    sums = weights.sum(-1)
    if part.sinks is not None:
        sums = sums + torch.exp(part.sinks[heads].to(sums)[:, None] - finite(lse.to(sums)))
    whole = (sums - 1).abs() < WHOLE
    return weights if bool((whole | torch.isinf(lse)).all()) else None

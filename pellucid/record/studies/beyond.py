"""The readouts that a summary is made of: sums of weights over all keys but the first.

Models park the attention that they do not need on the first token. Each sum leaves that key out, so that what is beyond
it keeps its digits however little it is; the first key's own weight is what is missing from the whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.readouts import Entropy, Expect, LogSumExp, Readout, Received

PREFIX = "beyond_first"
NEAR = 4  # places on either side that count as nearby
NO_TOKEN = -1  # stands for a token that is equal to no other

Index = Any  # a traced index


def summary_readouts(
    token_ids: Tensor | None = None, *, role: str = "self", first: Tensor | None = None
) -> list[Readout]:
    """The readouts that `record.summary()` needs of a layer, all of them from the one pass.

    Their functions count queries and keys by their positions in the whole sequence, so a step of decoding needs
    `pellucid.nn.positions.readouts_from` with the position of its first query.

    Args:
        token_ids: integers [batch, length], of at least as many positions as there are keys; without them there is
            no induction and no duplicate score.
        role: "self", "causal self" or "cross"; in cross-attention distances mean nothing and are not read.
        first: the position of each sequence's first key that is no padding, int64 [batch]; 0 if None.

    Returns:
        LogSumExp, Entropy, Received, and an Expect each, named after the mass that it takes: `beyond_first`, and for
        self-attention `beyond_first_distance`, `beyond_first_previous`, `beyond_first_nearby`; with token_ids also
        `beyond_first_duplicate` and `beyond_first_induction`.

    """
    chosen: list[Readout] = [LogSumExp(), Entropy(), Received(), _beyond(first)]
    if role == "cross":
        return chosen
    chosen += [_distance(first), _previous(first), _nearby(first)]
    return chosen if token_ids is None else [*chosen, _duplicate(token_ids, first), _induction(token_ids, first)]


def _is_first(first: Tensor | None, b: Index, k: Index) -> Any:
    return k == 0 if first is None else k == first[b]


def _beyond(first: Tensor | None) -> Expect:
    return Expect(lambda b, h, q, k: ~_is_first(first, b, k), PREFIX)


def _distance(first: Tensor | None) -> Expect:
    return Expect(lambda b, h, q, k: torch.where(_is_first(first, b, k), 0, abs(q - k)), f"{PREFIX}_distance")


def _previous(first: Tensor | None) -> Expect:
    return Expect(lambda b, h, q, k: (k == q - 1) & ~_is_first(first, b, k), f"{PREFIX}_previous")


def _nearby(first: Tensor | None) -> Expect:
    return Expect(lambda b, h, q, k: (abs(q - k) <= NEAR) & ~_is_first(first, b, k), f"{PREFIX}_nearby")


def _duplicate(token_ids: Tensor, first: Tensor | None) -> Expect:
    """The keys that hold the query's token once more."""
    ids = token_ids.to(torch.int64)
    return Expect(
        lambda b, h, q, k: (ids[b, k] == ids[b, q]) & (k != q) & ~_is_first(first, b, k), f"{PREFIX}_duplicate"
    )


def _induction(token_ids: Tensor, first: Tensor | None) -> Expect:
    """The keys that come right after another occurrence of the query's token."""
    ids = token_ids.to(torch.int64)
    before = tokens_before(ids, first)
    return Expect(
        lambda b, h, q, k: (before[b, k] == ids[b, q]) & (k != q + 1) & ~_is_first(first, b, k), f"{PREFIX}_induction"
    )


def tokens_before(token_ids: Tensor, first: Tensor | None = None) -> Tensor:
    """The token before each position, [batch, length]; NO_TOKEN before the first."""
    before = token_ids.roll(1, -1)
    before[:, 0] = NO_TOKEN
    if first is not None:
        rows = torch.arange(len(before), device="cpu")[
            first < before.shape[-1]
        ]  # of the others no token is among these
        before[rows, first[rows]] = NO_TOKEN
    return before

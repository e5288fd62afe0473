"""Which tokens occur before: the queries that an induction and a duplicate score are about."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Repeats(NamedTuple):
    """What is known of each query's token, bool [batch, 1, q_len]."""

    seen: Tensor  # whether it also stands where the query may know of it: before, if causal, else anywhere
    of_first: Tensor  # whether it is that of the sequence's first key, which stands elsewhere


def repeats(token_ids: Tensor, padding: Tensor | None, causal: bool, queries: range) -> Repeats:
    """Which of the queries' tokens occur once more.

    Args:
        token_ids: of the keys' positions, integers [batch, k_len].
        padding: which of them are padding, bool [batch, k_len], or None.
        causal: whether a query knows only of what comes before it.
        queries: their positions.

    """
    real = torch.ones_like(token_ids, dtype=torch.bool) if padding is None else ~padding.to(token_ids.device)
    seen = torch.stack([_seen(ids, known, causal) for ids, known in zip(token_ids, real, strict=True)])
    first = real.to(torch.uint8).argmax(-1, keepdim=True)
    places = torch.arange(token_ids.shape[1], device=token_ids.device)
    of_first = (token_ids == token_ids.gather(1, first)) & (places != first)
    return Repeats(*(flags[:, None, queries.start : queries.stop] for flags in (seen, of_first)))


def _seen(ids: Tensor, real: Tensor, causal: bool) -> Tensor:
    """Whether each token occurs once more among the real ones, before it if causal; bool [length]."""
    if not len(ids):
        return real
    _, kind = torch.unique(ids, return_inverse=True)
    kinds = int(kind.max()) + 1
    if not causal:
        return (torch.bincount(kind[real], minlength=kinds)[kind] > 1) & real
    places = torch.arange(len(ids), device=ids.device)
    earliest = torch.full((kinds,), len(ids), device=ids.device).scatter_reduce(0, kind[real], places[real], "amin")
    return (places > earliest[kind]) & real

"""Rows of scores to read, and what each readout means of them, written from the definition in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from pellucid.readouts import Entropy, Expect, LogSumExp, MaxScore, Renyi, RowReadout, TopK, mean_distance
from pellucid.readouts.base import Rows, Tile
from pellucid.softmax import Merge, Softmax

BATCH, HEADS, QUERIES = 2, 3, 5
SLOPES = torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64)


def place(keys: Tensor) -> dict[str, Tensor]:
    """Every row, and these keys."""
    return {
        "b": torch.arange(BATCH)[:, None, None, None],
        "h": torch.arange(HEADS)[:, None, None],
        "q": torch.arange(QUERIES)[:, None],
        "k": keys,
    }


def tile(scores: Tensor, keys: Tensor) -> Tile:
    """The tile of these columns of a whole matrix of scores."""
    return Tile(scores[..., keys], place(keys), scores.dtype)


@st.composite
def matrices(draw: st.DrawFn, least: int = 1) -> Tensor:
    """[batch, heads, queries, keys] in float64: some keys masked, one row wholly, ties, large and small numbers."""
    keys = draw(st.integers(least, 23))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    scores = torch.randn(BATCH, HEADS, QUERIES, keys, generator=generator, dtype=torch.float64)
    scores *= draw(st.sampled_from((1.0, 1.0, 30.0, 1e4, 1e-3)))
    if draw(st.booleans()):
        scores = (scores * 4).round() / 4
    masked = torch.rand(scores.shape, generator=generator) < draw(st.sampled_from((0.0, 0.3, 0.9)))
    masked[0, 1, 2] = draw(st.booleans())
    return scores.masked_fill(masked, -torch.inf)


def sinks() -> st.SearchStrategy[Tensor | None]:
    """No sink, or one logit a head; one that is switched off among them."""
    logits = [[0.3, -2.0, 4.0], [-torch.inf, 1.0, -30.0], [90.0, -torch.inf, 0.0]]
    return st.none() | st.sampled_from(logits).map(lambda row: torch.tensor(row, dtype=torch.float64)[:, None])


def with_sink(scores: Tensor, sink: Tensor | None) -> Tensor:
    """The scores, and the sink's logit as one more column."""
    if sink is None:
        return scores
    return torch.cat([scores, sink.to(scores.dtype)[..., None].expand(*scores.shape[:-1], 1)], -1)


def weights(scores: Tensor, sink: Tensor | None = None) -> Tensor:
    """The softmax of each row, the sink counted; 0 in a row with nothing."""
    return with_sink(scores, sink).softmax(-1).nan_to_num(0.0)[..., : scores.shape[-1]]


def entropy(scores: Tensor, sink: Tensor | None = None) -> Tensor:
    """-sum of weight * log(weight), the sink an outcome."""
    return torch.special.entr(with_sink(scores, sink).softmax(-1).nan_to_num(0.0)).sum(-1)


def renyi(scores: Tensor, sink: Tensor | None, order: float) -> Tensor:
    """log(sum of weight ** order) / (1 - order), the sink an outcome; the limit where that is none."""
    outcomes = with_sink(scores, sink)
    if order == 1:
        return entropy(scores, sink)
    logs = outcomes.log_softmax(-1)
    if order in (0, math.inf):
        found = (outcomes > -torch.inf).sum(-1).double().log() if order == 0 else -logs.amax(-1)
    else:
        found = (order * logs).logsumexp(-1) / (1 - order)
    return found.masked_fill((outcomes == -torch.inf).all(-1), 0.0)


def top(scores: Tensor, k: int) -> Tensor:
    """The keys of the k largest scores of each row, the lower first among equals, -1 for what is masked."""
    flat = scores.reshape(-1, scores.shape[-1]).tolist()
    chosen = []
    for row in flat:
        order = sorted((key for key in range(len(row)) if row[key] > -torch.inf), key=lambda key: (-row[key], key))
        chosen.append((order + [-1] * k)[:k])
    return torch.tensor(chosen).view(*scores.shape[:-1], k)


def distance(keys: int) -> Tensor:
    """|q - k|."""
    return (torch.arange(QUERIES)[:, None] - torch.arange(keys)).abs().double()


# Each readout, and what it means of scores and a sink.
ROW_READOUTS: dict[str, tuple[RowReadout, Callable[[Tensor, Tensor | None], Tensor]]] = {
    "lse": (LogSumExp(), lambda s, sink: with_sink(s, sink).logsumexp(-1)),
    "max": (MaxScore(), lambda s, sink: s.amax(-1)),
    "entropy": (Entropy(), entropy),
    "entropy of keys": (Entropy(sink=False), lambda s, sink: entropy(s)),
    **{
        f"renyi {order}": (Renyi(order), lambda s, sink, order=order: renyi(s, sink, order))
        for order in (0, 0.2, 0.7, 1, 1.4, 2, 30.0, math.inf)
    },
    "renyi 2 of keys": (Renyi(2, sink=False), lambda s, sink: renyi(s, None, 2)),
    "distance": (mean_distance(), lambda s, sink: (weights(s, sink) * distance(s.shape[-1])).sum(-1)),
    "captured": (
        Expect(lambda b, h, q, k: SLOPES[h] * (k + b) - q, "captured"),
        lambda s, sink: (
            weights(s, sink)
            * (
                SLOPES[:, None, None] * (torch.arange(s.shape[-1]) + torch.arange(BATCH)[:, None, None, None])
                - torch.arange(QUERIES)[:, None]
            )
        ).sum(-1),
    ),
    "mass": (
        Expect(lambda b, h, q, k: (k % 3 == 0) & (h > 0), "mass"),
        lambda s, sink: weights(s, sink)[..., ::3].sum(-1) * torch.tensor([0.0, 1, 1])[:, None],
    ),
    "top": (TopK(4), lambda s, sink: top(s, 4)),
}


def merged(readout: RowReadout, parts: list[tuple], order: list[int]) -> tuple:
    """All parts as one: `order` says which two neighbours merge next."""
    for i in order:
        (left, left_state), (right, right_state) = parts.pop(i), parts.pop(i)
        merge = Merge(left, right)
        parts.insert(i, (merge.whole, readout.merge(left_state, right_state, merge)))
    return parts[0]


def finished(readout: RowReadout, softmax: Softmax, state: tuple, sink: Tensor | None) -> Tensor:
    """The result; of TopK the keys."""
    result = readout.finish(state, Rows(softmax, None if sink is None else sink.to(softmax.total.dtype)))
    return result if isinstance(result, Tensor) else result.keys

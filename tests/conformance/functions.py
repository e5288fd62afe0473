"""score_mods and mask_mods as people write them for FlexAttention, each with the tensors it captures.

Written in attention-gym's style, with nothing of ours in them: they are what the score language must understand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.cases import normal

BATCH, HEADS, Q_LEN, K_LEN = 2, 3, 20, 20  # 4 x 5 pixels for the neighbourhood
ROWS, COLUMNS = 4, 5


class Functions(NamedTuple):
    """What one variant passes to attention."""

    score_mod: Callable[..., Any] | None = None
    mask_mod: Callable[..., Any] | None = None


DOCUMENT = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3])
OFFSETS = torch.tensor([0, 3, 8, 17])
PREFIX = torch.tensor([4, 11])
SLOPES = torch.exp2(-torch.arange(1.0, HEADS + 1, dtype=torch.float64))
BUCKETS, MAX_DISTANCE = 8, 16
TABLE = normal(BUCKETS, HEADS, seed=11)
RELATIVE = normal(HEADS, Q_LEN + K_LEN, seed=12)
PER_BATCH = normal(BATCH, seed=13)
EVERYWHERE = normal(BATCH, HEADS, Q_LEN, K_LEN, seed=14)
TEMPERATURE = torch.tensor(1.7, dtype=torch.float64)
ALLOWED = normal(Q_LEN, K_LEN, seed=15) > -0.3
KEY_ORDER = torch.randperm(K_LEN, generator=torch.Generator().manual_seed(16))


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


def sliding_window(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (q_idx - kv_idx <= 3) & (q_idx >= kv_idx)


def prefix_lm(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (kv_idx < PREFIX[b]) | (q_idx >= kv_idx)


def document(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return DOCUMENT[q_idx] == DOCUMENT[kv_idx]


def document_causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """A mask of each document's own positions: the index of an index."""
    own_q = q_idx - OFFSETS[DOCUMENT[q_idx]]
    own_k = kv_idx - OFFSETS[DOCUMENT[kv_idx]]
    return (DOCUMENT[q_idx] == DOCUMENT[kv_idx]) & causal(b, h, own_q, own_k)


def neighborhood(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """NATTEN's: integer division and modulo give the pixel, and the centre stays away from the border."""
    kernel = 3
    q_x, q_y = q_idx // COLUMNS, q_idx % COLUMNS
    k_x, k_y = kv_idx // COLUMNS, kv_idx % COLUMNS
    centre_x = q_x.clamp(kernel // 2, (ROWS - 1) - kernel // 2)
    centre_y = q_y.clamp(kernel // 2, (COLUMNS - 1) - kernel // 2)
    return ((centre_x - k_x).abs() <= kernel // 2) & ((centre_y - k_y).abs() <= kernel // 2)


def dilated(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return torch.logical_and((q_idx - kv_idx) % 3 == 0, torch.logical_not(kv_idx > q_idx + 6))


def shifted_blocks(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Division of negative numbers rounds down, and the modulo of one is not negative."""
    return ((q_idx - 7) // 4 == (kv_idx - 7) // 4) | ((q_idx - 13) % 5 == 0)


def table_of_bools(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return ALLOWED[q_idx, kv_idx] | (kv_idx == 0)


def table_of_bools_row_by_row(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return ALLOWED[q_idx][kv_idx] ^ (h == 1)


def never(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Half of the rows see nothing."""
    return (kv_idx <= q_idx) & (q_idx % 2 == 0)


def alibi(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score + (kv_idx - q_idx) * SLOPES[h]


def alibi_by_formula(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """attention-gym's: the slope is computed from the head."""
    scale = torch.exp2(-((h + 1) * 8.0 / HEADS))
    return score + (q_idx - kv_idx) * scale


def softcap(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return 1.5 * torch.tanh(score / 1.5)


def t5_bias(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """T5's bidirectional buckets, computed in place from the distance's logarithm."""
    half = BUCKETS // 2
    exact = half // 2
    distance = kv_idx - q_idx
    bucket = torch.where(distance > 0, half, 0)
    distance = torch.abs(distance)
    ratio = torch.log(torch.clamp(distance, min=1) / exact) / math.log(MAX_DISTANCE / exact)
    far = torch.clamp(exact + (ratio * (half - exact)).to(torch.int64), max=half - 1)
    return score + TABLE[bucket + torch.where(distance < exact, distance, far), h]


def relative_position(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score + RELATIVE[h, q_idx - kv_idx + K_LEN]


def per_batch(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score * PER_BATCH[b]


def everywhere(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score + EVERYWHERE[b, h, q_idx, kv_idx]


def one_number(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score / TEMPERATURE - TEMPERATURE


def index_of_an_index(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score + RELATIVE[h, KEY_ORDER[KEY_ORDER[kv_idx]]] * PER_BATCH[DOCUMENT[q_idx] % 2]


def where_and_comparisons(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    near = (q_idx - kv_idx).abs() < 4
    odd = (h % 2 == 1) | ~near
    return torch.where(odd & (kv_idx != 2), score, torch.where(q_idx <= kv_idx, -score, score * 2))


def extremes(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return torch.maximum(torch.minimum(score, -score), torch.clamp(score, -0.5, 0.5)) + torch.abs(score)


def transcendental(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return torch.log(1 + torch.exp(score)) * torch.sigmoid(score) + torch.log(kv_idx + 2.0)


def methods(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score.tanh().exp().clamp(max=2.0) - score.sigmoid().log() * (kv_idx + 1).to(score.dtype).log()


def logical(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    keep = torch.logical_or(torch.logical_xor(q_idx > 4, kv_idx > 4), q_idx == kv_idx)
    return torch.where(torch.logical_and(keep, h >= 0), score, -3.0)


def forbidding(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """A mask written as a score: where people put causal before mask_mod existed."""
    return torch.where(q_idx >= kv_idx, score, -float("inf"))


MASKS = (
    causal,
    sliding_window,
    prefix_lm,
    document,
    document_causal,
    neighborhood,
    dilated,
    shifted_blocks,
    table_of_bools,
    table_of_bools_row_by_row,
    never,
)
SCORES = (
    alibi,
    alibi_by_formula,
    softcap,
    t5_bias,
    relative_position,
    per_batch,
    everywhere,
    one_number,
    index_of_an_index,
    where_and_comparisons,
    extremes,
    transcendental,
    methods,
    logical,
    forbidding,
)
VARIANTS: dict[str, Functions] = {
    **{mask.__name__: Functions(mask_mod=mask) for mask in MASKS},
    **{score.__name__: Functions(score_mod=score) for score in SCORES},
    "t5_bias in a prefix_lm": Functions(t5_bias, prefix_lm),
    "softcap in documents": Functions(softcap, document_causal),
    "alibi in a window": Functions(alibi, sliding_window),
    "transcendental, half of the rows empty": Functions(transcendental, never),
}


class Learned(NamedTuple):
    """A function of tensors that are learned: `make(*tensors)` is a score_mod, and gradients flow to the tensors."""

    tensors: tuple[Tensor, ...]
    make: Callable[..., Callable[..., Any]]


LEARNED: dict[str, Learned] = {
    "slopes by head": Learned((SLOPES,), lambda slopes: lambda s, b, h, q, k: s - slopes[h] * (q - k).abs()),
    "T5's table": Learned(
        (TABLE,), lambda table: lambda s, b, h, q, k: s + table[torch.clamp((q - k).abs(), max=BUCKETS - 1), h]
    ),
    "relative positions": Learned((RELATIVE,), lambda table: lambda s, b, h, q, k: s + table[h, q - k + K_LEN]),
    "a bias for every pair": Learned((EVERYWHERE,), lambda bias: lambda s, b, h, q, k: s + bias[b, h, q, k]),
    "one number": Learned((TEMPERATURE,), lambda t: lambda s, b, h, q, k: s / t),
    "a learned softcap": Learned((TEMPERATURE,), lambda cap: lambda s, b, h, q, k: cap * torch.tanh(s / cap)),
    "a factor by query, a bias by key": Learned(
        (normal(Q_LEN, seed=21), normal(BATCH, K_LEN, seed=22)),
        lambda factor, bias: lambda s, b, h, q, k: s * torch.sigmoid(factor[q]) + bias[b, k].tanh(),
    ),
    "by document": Learned((normal(4, seed=23),), lambda t: lambda s, b, h, q, k: s + t[DOCUMENT[q]] * t[DOCUMENT[k]]),
    "only where near": Learned(
        (SLOPES,), lambda t: lambda s, b, h, q, k: torch.where((q - k).abs() < 3, s * torch.exp(t[h]), s - t[h])
    ),
    "minimum, maximum, abs, log": Learned(
        (normal(K_LEN, seed=24),),
        lambda t: lambda s, b, h, q, k: torch.maximum(s, t[k]) + torch.minimum(s, -t[k]) + torch.log(1 + t[k].abs()),
    ),
}

"""One call of attention as a watched model makes it, whoever makes it: a problem, and where its rows and keys stand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid import dropout
from pellucid.capture.calls.mask import MaskRule
from pellucid.capture.calls.stretch import Cut, Stretch
from pellucid.language import SCORE, TRUE, Expression
from pellucid.language.shift import by_position
from pellucid.problem import Problem, is_autocast
from pellucid.tensors.transformed import is_transformed

FORBIDDING = -9e3  # a mask that is added to the scores forbids where it, or the score with it, is at most this


class HeadsFrom(NamedTuple):
    """Which of a module's heads a call has, of a model whose heads lie on several ranks: those from a first one on."""

    first: int
    of: int  # how many the module has on all ranks


@dataclass
class Call:
    """What a module asks for. Indices in `score` and `mask` count this call's own queries and keys."""

    query: Tensor  # [batch or 1, heads, q_len, head_dim]
    key: Tensor  # [batch or 1, kv_heads, k_len, head_dim]
    value: Tensor  # [batch or 1, kv_heads, k_len, value_dim]
    scale: float
    score: Expression = SCORE
    mask: Expression = TRUE
    sinks: Tensor | None = None  # [heads]
    dropout_p: float = 0.0
    dropout_seed: int | Tensor | None = None
    start: int | None = None  # position of the first query, where it is known
    k_start: int = 0  # position of the first key
    rule: MaskRule | None = None  # where the mask came from, if from transformers
    is_cross: bool | None = None  # where the caller says whether keys come from another sequence
    padded_queries: Tensor | None = None  # bool [batch, q_len], True at padding
    padded_keys: Tensor | None = None  # bool [batch, k_len]
    by_hand: bool = False  # whether the module computes its weights itself: `score` reads its scores, query is zeros
    stretch: Stretch | None = None  # of which whole sequence the queries are some, where ranks have the others
    heads_from: HeadsFrom | None = None  # which of the model's heads these are, where the caller says it
    whole: Call | None = None  # the call that the model's output is of, where some of its keys are no part of this one

    @property
    def batch(self) -> int:
        """Sequences."""
        return max(self.query.shape[0], self.key.shape[0], self.value.shape[0])

    @property
    def heads(self) -> int:
        """Query heads."""
        return max(self.query.shape[1], self.key.shape[1])

    @property
    def q_len(self) -> int:
        """Queries."""
        return self.query.shape[-2]

    @property
    def k_len(self) -> int:
        """Keys."""
        return self.key.shape[-2]

    @cached_property
    def problem(self) -> Problem:
        """The problem that this call poses, without readouts."""
        return self.posed()

    def posed(self) -> Problem:
        """The same, not kept, for torch.compile: it cannot look into a cached property before Python 3.12."""
        query, key, value = map(_as_autocast, (self.query, self.key, self.value))
        seed: Any = self.dropout_seed
        if seed is None:
            seed = dropout.seed() if self.dropout_p else 0
        return Problem(
            query, key, value, (self.batch,), self.heads, self.scale, self.score, self.mask, self.sinks,
            self.dropout_p, seed,
        )  # fmt: skip

    def functions_by_position(self, start: int) -> tuple[Expression, Expression]:
        """The score and the mask as expressions of positions."""
        if self.stretch is not None and self.stretch.functions is not None:
            return self.stretch.functions
        score = by_position(self.score, start, self.k_start)
        if self.rule is not None:
            return score, self.rule.by_position
        return score, by_position(self.mask, start, self.k_start)


def of_problem(problem: Problem) -> Call:
    """The call that a problem of the face poses; batch dimensions are flattened into one."""
    query, key, value = (_one_batch(t, problem.batch) for t in (problem.query, problem.key, problem.value))
    return Call(
        query, key, value, problem.scale, problem.score, problem.mask, problem.sinks,
        problem.dropout_p, problem.dropout_seed,
    )  # fmt: skip


def of_cut(cut: Cut) -> Call:
    """The call that one rank reads of a call of all."""
    call = of_problem(cut.problem)
    call.start, call.stretch = cut.stretch.queries.start, cut.stretch
    return call


def _one_batch(tensor: Tensor, batch: tuple[int, ...]) -> Tensor:
    """[..., heads, length, dim] as [batch, heads, length, dim]; what all share stays one."""
    lead = tensor.shape[:-3]
    if all(size == 1 for size in lead):
        return tensor.reshape(1, *tensor.shape[-3:])
    return tensor.expand(*batch, *tensor.shape[-3:]).reshape(torch.Size(batch).numel(), *tensor.shape[-3:])


def _as_autocast(tensor: Tensor) -> Tensor:
    """What SDPA makes of an input inside torch.autocast."""
    kind = tensor.device.type
    if tensor.dtype == torch.float64 or not is_autocast(kind):
        return tensor
    return tensor.to(torch.get_autocast_dtype(kind))


def padding_of(mask: Tensor, batch: int) -> Tensor | None:
    """The keys that a mask lets no query look at, bool [batch, k_len]; None if there are none, or no batch of masks.

    Args:
        mask: bool or added to the scores, [..., q_len or 1, k_len]; one for all sequences says nothing of padding.
        batch: sequences.

    """
    if mask.ndim < 4 or mask.shape[0] != batch or is_transformed(mask):
        return None
    seen = mask if mask.dtype == torch.bool else mask > FORBIDDING
    padded = ~seen.flatten(1, -2).any(1)
    return padded if bool(padded.any()) else None

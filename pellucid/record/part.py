"""One stretch of a layer's queries and what recomputes their exact weights. A layer has one part, or one a call.

Functions and indices here count positions in the whole sequence, so that parts of one layer mean the same by `q`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid import engines, reference
from pellucid.engines import rounded
from pellucid.language import Expression
from pellucid.language.shift import by_index, of_heads, of_sequences
from pellucid.problem import Problem
from pellucid.softmax import finite

FOR_AN_ENGINE = 1 << 18  # weights from which on compiling a kernel for them pays


@dataclass
class Part:
    """The queries `start` ... of a layer, where their query and key were kept, and the functions they were read by."""

    start: int  # position of the first query
    k_start: int  # position of the first key
    query: Tensor  # [batch, heads, q_len, head_dim]
    key: Tensor  # [batch, kv_heads, k_len, head_dim]
    scale: float
    score: Expression  # of b, h, q and k, with q and k positions in the whole sequence and h among the kept heads
    mask: Expression
    sinks: Tensor | None  # [heads]

    @property
    def q_len(self) -> int:
        """Number of queries."""
        return self.query.shape[-2]

    @property
    def k_len(self) -> int:
        """Number of keys."""
        return self.key.shape[-2]

    def computing(self) -> AbstractContextManager[None]:
        """A context for whatever evaluates the functions; a part from a file tells there what is wrong with them."""
        return nullcontext()

    def problem(self) -> Problem:
        """The attention problem of this part; its indices q and k still start from 0."""
        batch, heads = self.query.shape[:2]
        return Problem(self.query, self.key, self.key, (batch,), heads, self.scale, self.score, self.mask, self.sinks)

    def indexed(self) -> Problem:
        """The same with functions of the indices q and k, as engines run it."""
        problem, device = self.problem(), self.query.device
        score, mask = (by_index(e, self.start, self.k_start, device) for e in (problem.score, problem.mask))
        return replace(problem, value=problem.key[..., :1], score=score, mask=mask)

    def of_sequence(self, number: int) -> Part:
        """The part of one sequence of the batch alone."""
        if len(self.query) == 1:
            return self
        own, index = slice(number, number + 1), torch.tensor([number], device=self.query.device)
        score, mask = (of_sequences(expression, index) for expression in (self.score, self.mask))
        return replace(self, query=self.query[own], key=self.key[own], score=score, mask=mask)

    def of_heads(self, heads: Tensor) -> Part:
        """The part of some heads alone, which are then numbered anew."""
        every, kv_heads = self.query.shape[1], self.key.shape[1]
        if torch.equal(heads, torch.arange(every, device=heads.device)):
            return self
        score, mask = (of_heads(expression, heads) for expression in (self.score, self.mask))
        key = self.key if kv_heads == 1 else self.key[:, heads // (every // kv_heads)]
        sinks = None if self.sinks is None else self.sinks[heads]
        return replace(self, query=self.query[:, heads], key=key, score=score, mask=mask, sinks=sinks)

    def between(self, start: int, stop: int) -> Part:
        """The part of the queries from one position up to another."""
        return replace(self, start=start, query=self.query[..., start - self.start : stop - self.start, :])

    def weights(self, lse: Tensor, rows: Tensor, keys: Tensor, heads: Tensor) -> Tensor:
        """The exact weights of some of the part's rows, [batch, heads, rows, keys]; 0 for keys that it has not.

        Args:
            lse: of the chosen heads and rows, [batch, heads, rows].
            rows: positions of the queries, all of them in this part.
            keys: positions of the keys.
            heads: numbers of the heads, among those kept.

        """
        inside = (keys >= self.k_start) & (keys < self.k_start + self.k_len)
        own_keys = keys[inside] - self.k_start
        every = torch.arange(self.k_len, device=own_keys.device)
        if lse.numel() * len(own_keys) >= FOR_AN_ENGINE:
            with self.computing():
                found = engines.weights(self.indexed(), lse, rows - self.start, own_keys, heads)
        elif torch.equal(own_keys, every):
            found = self._softmax(rows, heads)
        else:
            scores = self.scores(rows, own_keys, heads)
            found = torch.exp(scores - finite(lse.to(scores.dtype))[..., None])
            again = lambda some: self._softmax(rows[some], heads)[..., own_keys]  # noqa: E731
            found = rounded.replaced(found, lse, self.k_len, again)
        if bool(inside.all()):
            return found
        whole = found.new_zeros(*found.shape[:-1], len(keys))
        whole[..., inside] = found
        return whole

    def scores(self, rows: Tensor, own_keys: Tensor, heads: Tensor) -> Tensor:
        """What softmax is taken of, [batch, heads, rows, keys], -inf where masked.

        Args:
            rows: positions of the queries, all of them in this part.
            own_keys: the keys, counted from the part's first.
            heads: numbers of the heads, among those kept.

        """
        problem = self.problem()
        chosen = (rows - self.start, own_keys, heads)
        with torch.no_grad(), problem.own_precision(), self.computing():
            place = problem.place(*chosen) | {"q": rows[:, None], "k": own_keys + self.k_start}
            return problem.modify(problem.matrix(*chosen), place)

    def _softmax(self, rows: Tensor, heads: Tensor) -> Tensor:
        """The weights of rows of all the part's keys, [batch, heads, rows, keys]."""
        scores = self.scores(rows, torch.arange(self.k_len, device=rows.device), heads)
        problem = self.problem()
        with torch.no_grad(), problem.own_precision():
            return reference.softmax(scores, None if self.sinks is None else self.sinks[heads])[0]

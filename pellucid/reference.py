"""The five lines that define everything, dense. Every engine is tested against them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.problem import Problem, Result
from pellucid.readouts.base import Dense, Readout, Tile
from pellucid.softmax import finite, largest


def run(problem: Problem) -> Result:
    """Attention as the notebook writes it, with the whole matrix in memory. Differentiable any number of times."""
    place = problem.place()
    scores = problem.modify(problem.matrix(), place)
    weights, lse = softmax(scores, problem.sinks)
    output = _dropped(weights, problem, place) @ problem.value_of_heads()

    sink = None if problem.sinks is None else problem.sinks.to(problem.dtype)[:, None]
    dense = Dense(scores, weights, lse, Tile(scores, place, problem.dtype), sink)
    readings = {readout.name: _read(readout, dense) for readout in problem.readouts}
    return Result(output.to(problem.query.dtype), lse, readings)


def weights(problem: Problem, queries: Tensor, keys: Tensor, heads: Tensor) -> Tensor:
    """The weights of chosen queries, keys and heads, [*batch, heads, queries, keys], out of these rows' softmax.

    Args:
        problem: the call; its precision is the result's.
        queries: their indices, int64; so with those that follow.
        keys: indices of keys.
        heads: indices of query heads.

    """
    sinks = None if problem.sinks is None else problem.sinks[heads]
    return softmax(problem.scores(queries, heads=heads), sinks)[0][..., keys]


def softmax(scores: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weights of each row and its lse; a row with no key has weights 0 and lse -inf, and gradients 0."""
    allowed = scores > -torch.inf
    maximum = largest(scores.detach())
    if sinks is not None:
        maximum = torch.maximum(maximum, sinks.detach().to(scores.dtype)[:, None])
    shift = finite(maximum)
    exponentials = torch.where(allowed | scores.isnan(), torch.exp(scores - shift[..., None]), 0.0)
    total = exponentials.sum(-1)
    if sinks is not None:
        total = total + torch.exp(sinks.to(scores.dtype)[:, None] - shift)
    empty = total == 0
    total = total.masked_fill(empty, 1.0)
    return exponentials / total[..., None], (shift + total.log()).masked_fill(empty, -torch.inf)


def _read(readout: Readout, dense: Dense) -> Any:
    result = readout.dense(dense)
    return result if readout.differentiable else readout.map(result, Tensor.detach)


def _dropped(weights: Tensor, problem: Problem, place: dict[str, Tensor]) -> Tensor:
    if not problem.dropout_p:
        return weights
    return weights * problem.dropout(place)

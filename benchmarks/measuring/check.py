"""Whether an answer is right: against float64, by the tests' own dense definition and tolerance, before it is timed.

Long calls are checked at some of their queries, all heads of them: the first, the last and others drawn at random, as
many as the dense definition can be given without taking longer than the race.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import pellucid
from benchmarks.contenders.contract import Answer
from benchmarks.measuring.check_step import Exact, error_of, exact_step
from benchmarks.task import Task
from pellucid import engines
from tests.cases import Call, Dense, dense, error, largest, tolerance

MOST_ENTRIES = 2**22  # of the matrix, in float64
# A peer may round otherwise than torch does (weights to bfloat16, exponentials by a shorter polynomial) and is still
# right; ours is held to the tests' rule, which is twice torch's own error.
PEER_ALLOWANCE = 2.0
# Readouts in float32: scores of unit-normal vectors reach 30, so that a weight's relative error is some 30 units in
# the last place, and a few more for each of the sums.
READOUT_TOLERANCE = 100 * torch.finfo(torch.float32).eps


class Oracle(NamedTuple):
    """The exact output at some queries, and how far an output in the task's precision may be from it."""

    queries: Tensor  # [count]
    output: Tensor  # float64, [..., heads, count, value_dim]
    allowed: float
    readings: dict[str, Any]  # of the first and the last head, by the reference in float64
    step: Exact | None = None  # of a training


class WrongAnswerError(Exception):
    """An answer that is too far from the exact one to be timed."""


def oracle(task: Task) -> Oracle:
    """What is exact, and what is close enough."""
    if task.trains:
        return Oracle(torch.empty(0, dtype=torch.long), torch.empty(0), torch.inf, {}, exact_step(task))
    queries = _queries(task)
    part, functions = _at(task, queries)
    exact = dense(part, **functions)
    peer = _in_own_precision(part, functions)
    return Oracle(queries, exact.output, tolerance(task.dtype, exact, peer), _exact_readings(task))


def check(answer: Answer, exact: Oracle, *, ours: bool) -> float:
    """The answer's largest error; that of a step's gradients is relative to their size.

    Raises:
        WrongAnswerError: it is larger than allowed, or the shape is another, or a readout is wrong.

    """
    if exact.step is not None:
        relative, reason = error_of(answer.gradients, exact.step, 1 if ours else PEER_ALLOWANCE)
        if reason:
            raise WrongAnswerError(f"wrong: {reason}")
        return relative
    output = answer.output[..., exact.queries, :]
    if output.shape != exact.output.shape:
        raise WrongAnswerError(f"wrong: shape {list(output.shape)} where {list(exact.output.shape)} is right")
    found, allowed = error(output, exact.output), exact.allowed * (1 if ours else PEER_ALLOWANCE)
    if not found <= allowed:
        raise WrongAnswerError(f"wrong: error {found:.2g}, allowed {allowed:.2g}")
    for name, reading in answer.readings.items():
        _check_reading(name, reading, exact.readings[name])
    return found


def _queries(task: Task) -> Tensor:
    *pairs, q_len, _ = task.call.query.shape
    count = max(2, MOST_ENTRIES // (torch.Size(pairs).numel() * task.call.key.shape[-2]))
    if count >= q_len:
        return torch.arange(q_len)
    drawn = torch.randperm(q_len, generator=torch.Generator().manual_seed(0))[: count - 2]
    return torch.cat([drawn, torch.tensor([0, q_len - 1])]).unique()


def _at(task: Task, queries: Tensor) -> tuple[Call, dict[str, Any]]:
    """The call of these queries alone; functions of a place still see where the query stood."""
    call, mask = task.call, task.dense_mask if task.dense_mask is not None else task.call.attn_mask
    if mask is not None:
        mask = mask[..., queries, :] if mask.shape[-2] > 1 else mask
    if call.is_causal:
        mask = queries[:, None] >= torch.arange(call.key.shape[-2])
    part = replace(call, query=call.query[..., queries, :], attn_mask=mask, is_causal=False)
    functions: dict[str, Callable[..., Any]] = {}
    if task.score_mod is not None:
        score_mod = task.score_mod
        functions["score_mod"] = lambda score, b, h, q, k: score_mod(score, b, h, queries[q], k)
    if task.mask_mod is not None and task.dense_mask is None:
        mask_mod = task.mask_mod
        functions["mask_mod"] = lambda b, h, q, k: mask_mod(b, h, queries[q], k)
    return part, functions


def _in_own_precision(part: Call, functions: dict[str, Any]) -> Tensor:
    """What torch makes of the call in its own precision: SDPA where it can, else the dense definition."""
    if functions:
        precise: Dense = dense(part, **functions, dtype=part.query.dtype)
        return precise.output
    output: Tensor = part.by(scaled_dot_product_attention)
    return output


def _exact_readings(task: Task) -> dict[str, Any]:
    if not task.readouts:
        return {}
    call = _of_two_heads(task.call)
    with engines.using("reference"):
        _, seen = call.to(torch.float64).by(pellucid.observe, readouts=list(task.readouts))
        return {readout.name: seen[readout.name] for readout in task.readouts}


def _of_two_heads(call: Call) -> Call:
    first_and_last = [0, call.query.shape[-3] - 1]
    query, key, value = (tensor[..., first_and_last, :, :] for tensor in (call.query, call.key, call.value))
    return Call(query, key, value, is_causal=call.is_causal)


def _check_reading(name: str, reading: Any, exact: Any) -> None:
    """Of the top keys, which may swap places where two are as good as equal, the weights."""
    found, right = (value if isinstance(value, Tensor) else value[0] for value in (reading, exact))
    heads_at = 1  # [batch, heads, ...]
    found = found.index_select(heads_at, torch.tensor([0, found.shape[heads_at] - 1]))
    off, allowed = error(found, right), READOUT_TOLERANCE * largest(right)
    if not off <= allowed:
        raise WrongAnswerError(f"wrong: {name} is off by {off:.2g}, allowed {allowed:.2g}")

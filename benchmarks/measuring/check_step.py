"""Whether the gradients of a step are right: against autograd of the dense definition in float64, in two heads.

The first head and the last; the upstream gradients are 0 but at some queries (contenders/training.py), so that the
dense definition of those alone is enough at any length. Of dropout, which each draws for itself: that they are finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.contenders.training import leaves, queries, upstream
from benchmarks.task import Task
from pellucid.readouts import Received
from tests.cases import Call, Dense, dense, error, largest


class Exact(NamedTuple):
    """Exact parts of the gradients, and how far those in the task's precision may be from them; none for dropout."""

    task: Task
    gradients: list[Tensor]
    allowed: list[float]


def exact_step(task: Task) -> Exact:
    """What is exact, and what is close enough: twice the error of the dense definition in the task's own precision."""
    if task.dropout_p:
        return Exact(task, [], [])
    exact, precise = _dense_gradients(task, torch.float64), _dense_gradients(task, task.dtype)
    units = 4 * torch.finfo(task.dtype).eps + 64 * torch.finfo(torch.float32).eps
    allowed = [2 * error(own, right) + units * largest(right) for own, right in zip(precise, exact, strict=True)]
    return Exact(task, exact, allowed)


def error_of(gradients: list[Tensor], exact: Exact, allowance: float) -> tuple[float, str]:
    """The largest error of a gradient, relative to its size; and what is wrong, if anything is.

    Args:
        gradients: a contender's.
        exact: what is right.
        allowance: how many times what is allowed is allowed.
    """
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        return torch.inf, "a gradient is not finite"
    relative = [0.0]
    parts = _parts(exact.task, gradients) if exact.gradients else []
    for found, right, allowed in zip(parts, exact.gradients, exact.allowed, strict=True):
        off = error(found, right)
        if found.shape != right.shape or not off <= allowed * allowance:
            return torch.inf, f"gradient {len(relative)} is off by {off:.2g}, allowed {allowed * allowance:.2g}"
        relative.append(float((found.double() - right).norm() / right.norm()))
    return max(relative), ""


def _heads(task: Task) -> list[int]:
    return sorted({0, task.call.query.shape[-3] - 1})


def _parts(task: Task, tensors: list[Tensor]) -> list[Tensor]:
    """What is checked, of query, key, value, a mask that learns and what functions captured, or of their gradients."""
    heads, at, learned = _heads(task), queries(task), len(task.learned)
    own, captured = tensors[: len(tensors) - learned], tensors[len(tensors) - learned :]
    of_rows = (0, 3)  # query and mask
    return [
        *(t[:, heads][..., at, :] if number in of_rows else t[:, heads] for number, t in enumerate(own)),
        *(tensor[heads] for tensor in captured),
    ]


def _dense_gradients(task: Task, dtype: torch.dtype) -> list[Tensor]:
    _, wanted = leaves(task)
    own = wanted[: len(wanted) - len(task.learned)]
    parts = [part.detach().to(dtype).requires_grad_() for part in _parts(task, wanted)[: len(own)]]
    query, key, value, *masks = parts
    part = Call(query, key, value, masks[0] if masks else _mask(task))
    with torch.enable_grad():
        found = dense(part, **_functions(task), dtype=dtype)
        results = [found.output, *(_reading(readout, found) for readout in task.readouts)]
        made = torch.autograd.grad(results, [*parts, *task.learned], _upstream(task, dtype))
    return [*made[: len(parts)], *(gradient[_heads(task)] for gradient in made[len(parts) :])]


def _mask(task: Task) -> Tensor | None:
    at, k_len = queries(task), task.call.key.shape[-2]
    if task.call.is_causal:
        return at[:, None] >= torch.arange(k_len)
    if task.dense_mask is not None:
        return task.dense_mask[at]
    return task.call.attn_mask


def _functions(task: Task) -> dict[str, Any]:
    """The task's functions, which see a place in the part as the one in the whole."""
    heads, at = torch.tensor(_heads(task)), queries(task)
    score_mod, mask_mod = task.score_mod, task.mask_mod
    functions: dict[str, Callable[..., Any]] = {}
    if score_mod is not None:
        functions["score_mod"] = lambda score, b, h, q, k: score_mod(score, b, heads[h], at[q], k)
    if mask_mod is not None and task.dense_mask is None:
        functions["mask_mod"] = lambda b, h, q, k: mask_mod(b, heads[h], at[q], k)
    return functions


def _upstream(task: Task, dtype: torch.dtype) -> list[Tensor]:
    heads, at = _heads(task), queries(task)
    output, *others = (given[:, heads].to(dtype) for given in upstream(task, at))
    rows = (o if isinstance(r, Received) else o[..., at] for o, r in zip(others, task.readouts, strict=True))
    return [output[..., at, :], *rows]


def _reading(readout: Any, found: Dense) -> Tensor:
    """Entropy or received, which the works have."""
    weights = found.weights
    return weights.sum(-2) if isinstance(readout, Received) else torch.special.entr(weights).sum(-1)

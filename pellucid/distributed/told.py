"""What ranks must agree on in a call of several: the argument that it is of, and what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.distributed.layout import Layout
from pellucid.distributed.ring import chosen
from pellucid.language import write
from pellucid.problem import Problem
from pellucid.tensors.fingerprint import fingerprint

TOLD = (
    "query", "key", "value", "sinks", "scale", "dropout_p", "score_mod or attn_mask",
    "mask_mod, attn_mask or is_causal", "readouts", "sinks, their numbers", "score_mod or attn_mask, their numbers",
    "mask_mod or attn_mask, their numbers", "readouts, the numbers in their tensors", "requires_grad", "layout",
    "key_layout", "sending", "watch",
)  # fmt: skip


def texts_of(
    whole: Problem | None,
    own: Sequence[Tensor],
    queries: Layout | None = None,
    keys: Layout | None = None,
    watched: Sequence[str] = (),
) -> dict[str, Any]:
    """What ranks must agree on, by the argument that it is of; nothing of a call that is refused.

    Args:
        whole: the call of all ranks.
        own: this rank's query, key and value.
        queries: the layout of the queries.
        keys: the layout of the keys.
        watched: see `sequence.agreed`.

    """
    if whole is None:
        return dict.fromkeys(TOLD)
    given = (whole.query, whole.key, whole.value, whole.sinks)
    return dict(
        zip(
            TOLD,
            (
                *(
                    None if tensor is None else (tuple(tensor.shape), tensor.dtype, tensor.device.type)
                    for tensor in given
                ),
                whole.scale,
                whole.dropout_p,
                _written(whole.score),
                _written(whole.mask),
                [
                    (type(readout).__name__, readout.name, readout.numbers, *map(_written, readout.expressions))
                    for readout in whole.readouts
                ],
                None if whole.sinks is None else fingerprint(whole.sinks),
                _numbers(whole.score),
                _numbers(whole.mask),
                [_numbers(*readout.expressions) for readout in whole.readouts],
                [torch.is_grad_enabled(), *(tensor.requires_grad for tensor in (*own, *given_beside(whole)))],
                queries,
                keys,
                chosen(),
                watched,
            ),
            strict=True,
        )
    )


def given_beside(whole: Problem) -> list[Tensor]:
    """Sinks and captured tensors, which are as the user gave them."""
    sinks = [] if whole.sinks is None else [whole.sinks]
    return [*sinks, *(load.value for load in whole.loads)]


def weighing(query: Tensor, key: Tensor, whole: Problem) -> list[Tensor]:
    """The tensors that weights of a call are computed from, of this rank's query and key."""
    return [query, key, *given_beside(replace(whole, readouts=()))]


def _written(function: Any) -> tuple[str, list[Any]]:
    text, captured = write(function)
    return text, [(tuple(tensor.shape), tensor.dtype, getattr(tensor, "placements", None)) for tensor in captured]


def _numbers(*functions: Any) -> list[str]:
    return [fingerprint(tensor) for tensor in write(*functions)[1]] if functions else []

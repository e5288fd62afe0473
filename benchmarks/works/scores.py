"""A user's own score function, softcap and ALiBi, against compiled FlexAttention: once warm, and the first call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import limits
from benchmarks.goals import Faster, Within
from benchmarks.measuring.process import in_a_process
from benchmarks.task import Task, unmasked
from benchmarks.work import Entry, Measurement, Race, Work

SHAPE = (1, 12, 2048, 64)
CAP = 30.0
FLEX = "FlexAttention, compiled"


def scores() -> Iterator[Work]:
    yield Race(
        "softcap and ALiBi, 1×12×2048×64",
        (Entry("pellucid", softcap_and_alibi), Entry(FLEX, softcap_and_alibi)),
        (Faster(2, FLEX),),
        4 * SHAPE[1] * SHAPE[2] ** 2 * SHAPE[3],
        limit=limits.FLOAT32,
    )
    yield Measurement(
        "softcap and ALiBi, first call with nothing on disk",
        first_calls,
        (Within("FlexAttention's / pellucid's", least=10),),
    )


def softcap_and_alibi() -> Task:
    """`30 tanh(score / 30) - slope * distance`, as a user writes it."""
    slopes = torch.exp2(-torch.arange(1, SHAPE[1] + 1) * 8.0 / SHAPE[1])

    def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return CAP * torch.tanh(score / CAP) - slopes[h] * (q_idx - kv_idx).abs()

    return replace(unmasked(*SHAPE, torch.float32), score_mod=score_mod)


def first_calls() -> Mapping[str, float]:
    """Seconds of both first calls, each in a process of its own with empty caches."""
    ours = in_a_process(first_call, contender="pellucid")["seconds"]
    theirs = in_a_process(first_call, contender=FLEX)["seconds"]
    return {"pellucid, s": ours, f"{FLEX}, s": theirs, "FlexAttention's / pellucid's": theirs / ours}


def first_call(contender: str) -> Mapping[str, float]:
    """Seconds from the call to its result; the contender's module is imported before."""
    import os

    from benchmarks.contenders import CONTENDERS

    task = softcap_and_alibi()
    with TemporaryDirectory() as empty:
        os.environ |= {"PELLUCID_CACHE": empty, "TORCHINDUCTOR_CACHE_DIR": empty}
        started = time.perf_counter()
        CONTENDERS[contender].prepare(task).run()
        return {"seconds": time.perf_counter() - started}

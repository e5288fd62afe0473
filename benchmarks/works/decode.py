"""One query for each of 32 heads, over the keys and values of 8: a step of a language model, bound by memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks import limits
from benchmarks.goals import Faster, Share
from benchmarks.task import Task, tensors
from benchmarks.work import Entry, Race
from tests.cases import Call

HEADS, KV_HEADS, DIM = 32, 8, 128
LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768)
TIMES = {torch.bfloat16: 20.0, torch.float32: 8.0}
SHARE = 0.8
CONTENDERS = ("pellucid", "torch SDPA", "FlexAttention, compiled", "ONNX Runtime", "OpenVINO")


def decode() -> Iterator[Race]:
    for dtype, times in TIMES.items():
        for k_len in LENGTHS:
            task = partial(step, k_len, dtype)
            yield Race(
                f"decode {str(dtype)[6:]}, 32/8 heads, {k_len} keys × {DIM}",
                tuple(Entry(name, task) for name in CONTENDERS),
                (Faster(times, "torch SDPA"), Share(SHARE)),
                2 * KV_HEADS * k_len * DIM * dtype.itemsize,
                "B",
                limits.MEMORY,
            )


def step(k_len: int, dtype: torch.dtype) -> Task:
    """Query [1, 32, 1, 128], key and value [1, 8, k_len, 128]."""
    query, key = (1, HEADS, 1, DIM), (1, KV_HEADS, k_len, DIM)
    return Task(Call(*tensors(query, key, key, dtype=dtype), enable_gqa=True))

"""Self-attention with nothing special, full and causal, in every precision: what everybody's kernel is made for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks import limits
from benchmarks.contenders import CONTENDERS
from benchmarks.goals import Faster, FasterThanAny, Goal, Share
from benchmarks.task import unmasked
from benchmarks.work import Entry, Race

Shape = tuple[int, int, int, int]  # batch, heads, length, head_dim
LARGE: tuple[Shape, ...] = ((1, 12, 512, 64), (1, 12, 2048, 64), (1, 8, 4096, 128), (1, 32, 1024, 128))
SMALL: tuple[Shape, ...] = ((8, 12, 128, 64), (32, 12, 32, 64))
LONG = 2048  # from here on the goals name a share of the machine's peak

SDPA, ONNX, OPENVINO = "torch SDPA", "ONNX Runtime", "OpenVINO"
FULL, CAUSAL = False, True


def float32() -> Iterator[Race]:
    for shape in LARGE:
        share = (Share(0.82),) if shape[2] >= LONG else ()
        yield race(shape, torch.float32, FULL, (Faster(1.35, SDPA), FasterThanAny(1.05), *share))
        yield race(shape, torch.float32, CAUSAL, (Faster(1.5, SDPA), FasterThanAny(1.5)))
    for shape in SMALL:
        yield race(shape, torch.float32, FULL, (Faster(1.6, SDPA), Faster(1.2, ONNX)))


def bfloat16() -> Iterator[Race]:
    for shape in LARGE:
        share = (Share(0.75),) if shape[2] >= LONG else ()
        yield race(shape, torch.bfloat16, FULL, (Faster(2.2, SDPA), Faster(1.15, OPENVINO), *share))
        yield race(shape, torch.bfloat16, CAUSAL, (Faster(2.7, SDPA), Faster(2.2, OPENVINO)))


def float16() -> Iterator[Race]:
    for shape in LARGE:
        yield race(shape, torch.float16, FULL, (Faster(2.0, SDPA),))


def float64() -> Iterator[Race]:
    yield race((1, 8, 1024, 64), torch.float64, FULL, (Faster(1.4, SDPA),))


def race(shape: Shape, dtype: torch.dtype, is_causal: bool, goals: tuple[Goal, ...]) -> Race:
    """Everybody on one shape; the causal half counts half of the operations."""
    batch, heads, length, dim = shape
    task = partial(unmasked, *shape, dtype, is_causal=is_causal)
    return Race(
        f"{str(dtype)[6:]} {batch}×{heads}×{length}×{dim}, {'causal' if is_causal else 'full'}",
        tuple(Entry(name, task) for name in CONTENDERS),
        goals,
        4 * batch * heads * length**2 * dim / (2 if is_causal else 1),
        limit={torch.float64: limits.FLOAT64, torch.bfloat16: limits.DOT}.get(dtype, limits.FLOAT32),
    )

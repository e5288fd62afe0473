"""Head dims that fill no vector: how much longer they take than the next multiple of 16, which does more work."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.goals import Costs
from benchmarks.task import unmasked
from benchmarks.work import Entry, Race

BATCH, HEADS, LENGTH = 1, 12, 2048
DIMS = (1, 33, 40, 72, 100)
MULTIPLE, MOST = 16, 1.25
DTYPES = (torch.float32, torch.bfloat16)


def dims() -> Iterator[Race]:
    for dtype in DTYPES:
        for dim in DIMS:
            yield _beside_next_multiple(dim, dtype)


def _beside_next_multiple(dim: int, dtype: torch.dtype) -> Race:
    """Plain attention of `dim`, of the next multiple, and torch's of `dim`: no rates, for the amounts differ."""
    multiple = dim + -dim % MULTIPLE
    odd, even = (partial(unmasked, BATCH, HEADS, LENGTH, some, dtype) for some in (dim, multiple))
    beside = f"pellucid, head_dim {multiple}"
    return Race(
        f"head_dim {dim}, {str(dtype)[6:]} {BATCH}×{HEADS}×{LENGTH}",
        (
            Entry("pellucid", odd, f"pellucid, head_dim {dim}"),
            Entry("pellucid", even, beside),
            Entry("torch SDPA", odd, f"torch SDPA, head_dim {dim}"),
        ),
        (Costs(MOST, beside),),
    )

"""What everything costs that is not attention: a call of ten tokens, compiling, loading, importing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch

import pellucid
from benchmarks.goals import Costs, Within
from benchmarks.measuring.process import in_a_process, run_python
from benchmarks.task import Task, unmasked
from benchmarks.work import Entry, Measurement, Race, Work
from benchmarks.works.observing import together
from tests.cases import Call, normal

IMPORTS = 5
LENGTH = 512  # of the kernels: more than a tile
COMPILE, LOAD = "compiled", "loaded from disk"


def overhead() -> Iterator[Work]:
    yield Race(
        "the notebook's 10 × 4",
        tuple(Entry(name, notebook) for name in ("pellucid", "torch SDPA", "eager")),
        (Costs(1.5, "torch SDPA"),),
        4 * 10 * 10 * 4,
    )
    yield Measurement(
        "one kernel",
        compile_and_load,
        tuple(
            Within(f"{name}, {what}, s", most=most) for name in KERNELS for what, most in ((COMPILE, 0.5), (LOAD, 0.03))
        ),
    )
    yield Measurement("import", imports)


def notebook() -> Task:
    """Self-attention of 10 tokens of 4 numbers, without a head dimension."""
    tokens = normal(10, 4, dtype=torch.float32)
    return Task(Call(tokens, tokens, tokens))


def _plain(dtype: torch.dtype, dim: int = 64, **more: Any) -> None:
    unmasked(1, 2, LENGTH, dim, dtype, **more).call.by(pellucid.attention)


def _observed(dtype: torch.dtype, *, masked: bool = False) -> None:
    """All that comes out of the one pass, beside a mask of numbers: the largest kernels that there are."""
    call = unmasked(1, 2, LENGTH, 64, dtype).call
    call = replace(call, attn_mask=normal(LENGTH, LENGTH, dtype=dtype, seed=3)) if masked else call
    call.by(pellucid.observe, readouts=list(together()))


KERNELS: dict[str, Callable[[], None]] = {
    "float32": partial(_plain, torch.float32),
    "float32 causal": partial(_plain, torch.float32, is_causal=True),
    "bfloat16": partial(_plain, torch.bfloat16),
    "float64, head_dim 256": partial(_plain, torch.float64, 256),
    "six readouts": partial(_observed, torch.float32),
    "six readouts, float mask": partial(_observed, torch.float32, masked=True),
    "six readouts, float mask, bfloat16": partial(_observed, torch.bfloat16, masked=True),
}


def compile_and_load() -> Mapping[str, float]:
    """Seconds that the first call takes beyond the second, in a process that compiles, and in one that loads."""
    values: dict[str, float] = {}
    for kernel in KERNELS:
        with TemporaryDirectory() as directory:
            for what in (COMPILE, LOAD):
                answer = in_a_process(first_beyond_second, kernel=kernel, directory=directory)
                values[f"{kernel}, {what}, s"] = answer["s"]
    return values


def first_beyond_second(kernel: str, directory: str) -> Mapping[str, float]:
    """LLVM is started before, by another kernel."""
    import os

    os.environ["PELLUCID_CACHE"] = directory
    _plain(torch.float16)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        KERNELS[kernel]()
        seconds.append(time.perf_counter() - started)
    return {"s": seconds[0] - seconds[1]}


def imports() -> Mapping[str, float]:
    """Seconds, the median of a few processes: torch alone, pellucid after torch."""
    script = (
        "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); "
        "import pellucid; print(b - a, time.perf_counter() - b)"
    )
    runs = [[float(number) for number in run_python("-c", script).split()] for _ in range(IMPORTS)]
    torch_seconds, own_seconds = (statistics.median(column) for column in zip(*runs, strict=True))
    return {"torch, s": torch_seconds, "pellucid after torch, s": own_seconds}

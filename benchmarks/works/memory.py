"""What a call needs beside its inputs and results, in MB of 2^20 bytes: at any length, and where torch stores a matrix.

Each is the growth of a fresh process at its highest, after one small call that compiles and loads the kernel.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import pellucid
from benchmarks.check import check, oracle
from benchmarks.contenders.contract import Answer
from benchmarks.goals import Within
from benchmarks.memory import MB, peak
from benchmarks.process import in_a_process
from benchmarks.task import Task, unmasked
from benchmarks.work import Measurement
from benchmarks.works.observing import together
from benchmarks.works.unusual import mask_of_three_dimensions, smaller_value, three_dimensions
from pellucid.readouts import MaxScore, Received

LENGTHS = (4096, 65_536)
A_THREAD = "beside the results, MB a thread"
PER_THREAD = 4  # MB
SMALL = 512  # tokens of the call that warms up
UNUSUAL = {
    "3-D input": three_dimensions,
    "mask of 3 dimensions": mask_of_three_dimensions,
    "value dim 64, head_dim 128": smaller_value,
}


def memory() -> Iterator[Measurement]:
    for length in LENGTHS:
        name = f"scratch memory, 1×2×{length}×64"
        yield Measurement(name, partial(in_a_process, scratch, length=length), _goal(), length > 16_384)
    for name in UNUSUAL:
        yield Measurement(f"scratch memory, {name}", partial(in_a_process, scratch_of, name=name), _goal())


def long() -> Iterator[Measurement]:
    yield Measurement(
        "1 head of 131072 tokens × 64, every readout",
        partial(in_a_process, one_head, length=131_072),
        (Within("s", most=60), Within("above the inputs, MB", most=250)),
        long=True,
    )


def scratch(length: int) -> Mapping[str, float]:
    """Of plain attention at a length."""
    return _scratch(unmasked(1, 2, length, 64, torch.float32))


def scratch_of(name: str) -> Mapping[str, float]:
    """Of one of the unusual calls, and of torch's SDPA on it."""
    task = UNUSUAL[name]()
    return _scratch(task) | {"torch SDPA, MB a thread": _above(task, torch.nn.functional.scaled_dot_product_attention)}


def one_head(length: int) -> Mapping[str, float]:
    """Seconds and memory of a call that would have a matrix of 64 GB, and everything asked of it."""
    readouts = [*together(), MaxScore(), Received()]
    small = unmasked(1, 1, SMALL, 64, torch.float32)
    small.call.by(pellucid.observe, readouts=readouts)
    task = unmasked(1, 1, length, 64, torch.float32)
    started = time.perf_counter()
    with peak() as measured:
        output, seen = task.call.by(pellucid.observe, readouts=readouts)
        _ = [seen[readout.name] for readout in readouts]
    seconds = time.perf_counter() - started
    check(Answer(output), oracle(task), ours=True)
    return {"s": seconds, "above the inputs, MB": measured.added / MB}


def _goal() -> tuple[Within, ...]:
    return (Within(A_THREAD, most=PER_THREAD),)


def _scratch(task: Task) -> dict[str, float]:
    return {A_THREAD: _above(task, pellucid.attention)}


def _above(task: Task, attention: Any) -> float:
    """MB a thread, without the output."""
    _first_part(task).by(attention)
    with peak() as measured:
        output = task.call.by(attention)
    return max(0, measured.added - output.nbytes) / MB / torch.get_num_threads()


def _first_part(task: Task) -> Any:
    """The same kind of call, with a few queries and keys."""
    call, mask = task.call, task.call.attn_mask
    part = {name: getattr(call, name)[..., :SMALL, :] for name in ("query", "key", "value")}
    return replace(call, **part, attn_mask=None if mask is None else mask[..., :SMALL, :SMALL])

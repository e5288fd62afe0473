"""What a call needs beside its inputs and results, in MB of 2^20 bytes: at any length, and where torch stores a matrix.

Each is the growth of a fresh process at its highest, after one small call that compiles and loads the kernel. That one
is made by a thread which ends, so that what the engine keeps for a thread is allocated, and counted, anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any

import torch

import pellucid
from benchmarks.contenders.contract import Answer
from benchmarks.goals import Within
from benchmarks.measuring.check import check, oracle
from benchmarks.measuring.memory import MB, peak
from benchmarks.measuring.process import in_a_process
from benchmarks.task import Task, unmasked
from benchmarks.work import Measurement
from benchmarks.works.decode import step
from benchmarks.works.observing import together
from benchmarks.works.sparse import LENGTHS, WINDOW, window
from benchmarks.works.unusual import mask_of_three_dimensions, smaller_value, three_dimensions
from pellucid.readouts import MaxScore, PooledMax, Received
from tests.cases import Call

A_THREAD = "beside the results, MB a thread"
PER_THREAD = 4  # MB
SMALL = 512  # tokens of the call that warms up
AT_ANY_LENGTH: dict[str, Callable[[], Task]] = {
    "1×2×4096×64": partial(unmasked, 1, 2, 4096, 64, torch.float32),
    "1×2×65536×64": partial(unmasked, 1, 2, 65_536, 64, torch.float32),
    "bfloat16 1×2×65536×64": partial(unmasked, 1, 2, 65_536, 64, torch.bfloat16),
    f"window of {WINDOW}, {LENGTHS[0]} tokens": partial(window, LENGTHS[0], dense=False),
    "decode bfloat16, 32/8 heads, 32768 keys × 128": partial(step, 32_768, torch.bfloat16),
}
UNUSUAL = {  # where torch stores a matrix
    "3-D input": three_dimensions,
    "mask of 3 dimensions": mask_of_three_dimensions,
    "value dim 64, head_dim 128": smaller_value,
}


def memory() -> Iterator[Measurement]:
    for names, measure in ((AT_ANY_LENGTH, scratch), (UNUSUAL, scratch_beside_torch)):
        for name in names:
            yield Measurement(
                f"scratch memory, {name}",
                partial(in_a_process, measure, name=name),
                (Within(A_THREAD, most=PER_THREAD),),
            )


def long() -> Iterator[Measurement]:
    yield Measurement(
        "1 head of 131072 tokens × 64, every readout",
        partial(in_a_process, one_head, length=131_072),
        (Within("s", most=60), Within("above the inputs, MB", most=250)),
    )


def scratch(name: str) -> Mapping[str, float]:
    """Of one of the calls at any length."""
    return _scratch(AT_ANY_LENGTH[name]())


def scratch_beside_torch(name: str) -> Mapping[str, float]:
    """Of one of the unusual calls, and of torch's SDPA on it."""
    task = UNUSUAL[name]()
    return _scratch(task) | {"torch SDPA, MB a thread": _above(task, torch.nn.functional.scaled_dot_product_attention)}


def one_head(length: int) -> Mapping[str, float]:
    """Seconds and memory of a call that would have a matrix of 64 GB, and all asked of it that there is."""
    readouts = [*together(), PooledMax(256, 256), MaxScore(), Received()]
    task = unmasked(1, 1, length, 64, torch.float32)
    _warm_up(task, partial(pellucid.observe, readouts=readouts))
    started = time.perf_counter()
    with peak() as measured:
        output, seen = task.call.by(pellucid.observe, readouts=readouts)
        _ = [seen[readout.name] for readout in readouts]
    seconds = time.perf_counter() - started
    check(Answer(output), oracle(task), ours=True)
    return {"s": seconds, "above the inputs, MB": measured.added / MB}


def _scratch(task: Task) -> dict[str, float]:
    return {A_THREAD: _above(task, partial(pellucid.attention, mask_mod=task.mask_mod))}


def _above(task: Task, attention: Callable[..., Any]) -> float:
    """MB a thread, without the output."""
    _warm_up(task, attention)
    with peak() as measured:
        output = task.call.by(attention)
    return max(0, measured.added - output.nbytes) / MB / torch.get_num_threads()


def _warm_up(task: Task, attention: Callable[..., Any]) -> None:
    """Load the kernel, in a thread that is gone afterwards. Gradients are a thread's own setting."""
    call = _first_part(task)
    thread = Thread(target=torch.no_grad()(lambda: call.by(attention)))
    thread.start()
    thread.join()


def _first_part(task: Task) -> Call:
    """The same kind of call, with a few queries and keys."""
    call, mask = task.call, task.call.attn_mask
    part = {name: getattr(call, name)[..., :SMALL, :] for name in ("query", "key", "value")}
    return replace(call, **part, attn_mask=None if mask is None else mask[..., :SMALL, :SMALL])

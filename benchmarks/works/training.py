"""Steps of a training, forward and backward, beside torch SDPA: shapes, masks and biases that learn, dropout, readouts.

Operations are those of seven products of query and key pairs: two of the forward pass, five of the backward pass.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import pellucid
from benchmarks.contenders.training import leaves
from benchmarks.goals import Costs, Faster, FasterOrShare, Goal, Within
from benchmarks.measuring.memory import peak
from benchmarks.measuring.process import in_a_process
from benchmarks.task import Task, unmasked
from benchmarks.work import Entry, Measurement, Race, Work
from benchmarks.works.sparse import LENGTH as LONG
from benchmarks.works.sparse import WINDOW, window, window_pairs
from pellucid.engines.cpu.machine.target import host
from pellucid.readouts import Entropy, Readout, Received
from tests.cases import normal

OURS, SDPA = "pellucid", "torch SDPA"
PLAIN, SDPA_MASK = "pellucid, the plain step", "torch SDPA, the expanded bias as a mask that learns"
PRODUCTS = 7
Shape = tuple[int, int, int, int]  # batch, heads, length, head_dim
SHAPES: tuple[Shape, ...] = ((1, 12, 512, 64), (1, 12, 2048, 64), (1, 8, 4096, 128))
SHAPE, SHORT, ONE_HEAD = SHAPES[1], (32, 12, 128, 64), (1, 1, 8192, 64)
LARGE: Shape = (1, 8, 16_384, 64)
SMALL = 512  # tokens of the step that loads kernels
SHARE, CAUSAL_SHARE = 0.8, 0.7  # of the limit: as good as the ratio
# Times torch's speed, full and causal: with vectors alone, and with matrix tiles.
GOALS = {torch.float32: ((1.3, 1.6), (1.6, 1.9)), torch.bfloat16: ((1.8, 2.3), (2.2, 2.6))}
FIRST_USE = (0.5, 0.6)  # seconds, the same two


def training() -> Iterator[Work]:
    for dtype, goals in GOALS.items():
        for shape in SHAPES:
            for is_causal, times in zip((False, True), goals[host().bf16_tiles], strict=True):
                yield _plain(shape, dtype, times, is_causal)
    yield _plain(SHORT, torch.float32, 1.3)
    yield _plain(ONE_HEAD, torch.float32, 1.9)
    yield from learning()
    yield from reading()
    yield Measurement(
        f"step of {_written(LARGE)}, memory",
        partial(in_a_process, memory, shape=LARGE),
        (Within("beside inputs and gradients, times the inputs", most=3),),
    )
    yield Measurement(
        "step, first use of a backward kernel, nothing on disk",
        partial(in_a_process, first_use),
        (Within("backward, s", most=FIRST_USE[host().bf16_tiles]),),
    )


def learning() -> Iterator[Race]:
    """Steps with a window, with a bias and a mask that learn, and with dropout."""
    windowed = partial(_windowed, LONG)
    yield _race(
        f"window of {WINDOW}, {LONG} tokens",
        (Entry(OURS, windowed), Entry(SDPA, windowed)),
        (Faster(20, SDPA),),
        (1, 1, LONG, ONE_HEAD[3]),
        window_pairs(LONG),
    )
    yield _race(
        f"table of relative places that learns, {_written(SHAPE)}",
        (Entry(OURS, relative), Entry(SDPA, masked, SDPA_MASK)),
        (Faster(2, SDPA_MASK),),
    )
    yield _race(
        f"float mask that learns, {_written(SHAPE)}",
        (Entry(OURS, masked), Entry(SDPA, masked)),
        (Faster(2, SDPA),),
    )
    dropped = partial(_step, SHAPE, dropout_p=0.1)
    yield _race(
        f"dropout of 0.1, {_written(SHAPE)}",
        (Entry(OURS, dropped), Entry(OURS, partial(_step, SHAPE), PLAIN), Entry(SDPA, dropped)),
        (Costs(1.25, PLAIN), Faster(3, SDPA)),
    )


def reading() -> Iterator[Race]:
    """Steps with a readout in the loss, beside the plain step."""
    for readout, most in ((Entropy(), 1.1), (Received(), 1.35)):
        read = partial(_step, SHAPE, readouts=(readout,))
        entries = Entry(OURS, read, f"pellucid, {readout.name}"), Entry(OURS, partial(_step, SHAPE), PLAIN)
        yield _race(f"{readout.name} in the loss, {_written(SHAPE)}", entries, (Costs(most, PLAIN),))


def relative() -> Task:
    """A number for each head and distance, added to the scores: what T5 and Swin learn, without buckets."""
    _, heads, length, _ = SHAPE
    table = normal(heads, 2 * length - 1, dtype=torch.float32, seed=3).requires_grad_()

    def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + table[h, q_idx - kv_idx + length - 1]

    return replace(_step(SHAPE), score_mod=score_mod, learned=(table,))


def masked() -> Task:
    """A mask of full size that wants a gradient; to SDPA also what a table of relative places is, expanded."""
    task, size = _step(SHAPE), (1, *SHAPE[1:3], SHAPE[2])
    return replace(task, call=replace(task.call, attn_mask=normal(*size, dtype=torch.float32, seed=3)))


def memory(shape: Shape) -> Mapping[str, float]:
    """What a step needs at its highest, ours and torch's."""
    return {
        "beside inputs and gradients, times the inputs": _above(pellucid.attention, shape),
        "torch SDPA, the same": _above(scaled_dot_product_attention, shape),
    }


def first_use() -> Mapping[str, float]:
    """Seconds of the first backward pass of a process, beyond those of the second, with an empty cache."""
    with TemporaryDirectory() as empty:
        os.environ["PELLUCID_CACHE"] = empty
        first, second = (_backward_seconds() for _ in range(2))
    return {"backward, s": first - second}


@torch.enable_grad()
def _backward_seconds() -> float:
    call, _ = leaves(_step((1, 2, 512, 64)))
    output = call.by(pellucid.attention)
    started = time.perf_counter()
    output.sum().backward()
    return time.perf_counter() - started


@torch.enable_grad()
def _above(attention: Callable[..., Tensor], shape: Shape) -> float:
    """What is beside the inputs and their gradients, times the inputs."""
    for size in ((*shape[:2], SMALL, shape[3]), shape):  # kernels are loaded by the small one
        call, wanted = leaves(_step(size))
        with peak() as measured:
            output = call.by(attention)
            gradients = torch.autograd.grad(output, wanted, torch.ones_like(output))
    inputs = sum(tensor.nbytes for tensor in wanted)
    return (measured.added - sum(gradient.nbytes for gradient in gradients)) / inputs


def _plain(shape: Shape, dtype: torch.dtype, times: float, is_causal: bool = False) -> Race:
    task = partial(_step, shape, dtype, is_causal=is_causal)
    goal = FasterOrShare(times, SDPA, CAUSAL_SHARE if is_causal else SHARE)
    entries, kind = (Entry(OURS, task), Entry(SDPA, task)), "causal" if is_causal else "full"
    pairs = shape[2] ** 2 / (2 if is_causal else 1)
    return _race(f"{str(dtype)[6:]} {_written(shape)}, {kind}", entries, (goal,), shape, pairs, dtype)


def _race(
    name: str,
    entries: tuple[Entry, ...],
    goals: tuple[Goal, ...],
    shape: Shape = SHAPE,
    pairs: float = SHAPE[2] ** 2,
    dtype: torch.dtype = torch.float32,
) -> Race:
    amount = 2 * PRODUCTS * shape[0] * shape[1] * pairs * shape[3]
    return Race(f"step, {name}", entries, goals, amount, limit=f"{str(dtype)[6:]} products")


def _step(
    shape: Shape,
    dtype: torch.dtype = torch.float32,
    *,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    readouts: tuple[Readout, ...] = (),
) -> Task:
    task = unmasked(*shape, dtype, is_causal=is_causal)
    return replace(task, trains=True, dropout_p=dropout_p, readouts=readouts)


def _windowed(length: int) -> Task:
    return replace(window(length), trains=True)


def _written(shape: Shape) -> str:
    return "×".join(map(str, shape))

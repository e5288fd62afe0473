"""A sequence on two processes of one thread each, against one process of two threads: the same call, taking turns.

torch's own `context_parallel` would be the peer: on CPU it raises NotImplementedError, for its operators of attention
have no sharding strategy there.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import pellucid
from benchmarks.goals import Within
from benchmarks.measuring.memory import MB, peak
from benchmarks.measuring.process import FailedError
from benchmarks.work import Measurement
from pellucid.distributed import attention as shared_attention
from pellucid.distributed import even, head_tail, sending
from pellucid.distributed.ring import WAYS

RANKS = 2
LENGTH, HEADS, DIM = 16_384, 4, 64
ROUNDS = 5
SPEED, SHARE = "speed against one process", "a rank's memory, of one process's"
LONGEST = 300  # seconds for all rounds


class Asked(NamedTuple):
    """A call to be timed."""

    dtype: torch.dtype
    causal: bool
    way: str


def distributed() -> Iterator[Measurement]:
    for dtype in (torch.float32, torch.bfloat16):
        for causal in (False, True):
            for way in WAYS:
                name = str(dtype).removeprefix("torch.") + (", causal" if causal else "")
                yield Measurement(
                    f"1×{HEADS}×{LENGTH}×{DIM} {name}, {way}",
                    partial(_measured, Asked(dtype, causal, way)),
                    (Within(SPEED, least=0.9), *((Within(SHARE, most=1 / RANKS + 0.1),) if way == "ring" else ())),
                )


def _measured(asked: Asked) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        whole = _Team([(None, 2)], folder, asked)
        shared = _Team([(rank, 1) for rank in range(RANKS)], folder, asked)
        try:
            teams, times = {"one": whole, "ranks": shared}, {"one": list[float](), "ranks": list[float]()}
            for _ in range(ROUNDS):
                for name, team in teams.items():
                    times[name].append(team.run())
            one, ranks = (statistics.median(times[name]) for name in ("one", "ranks"))
            return {
                "one process, s": one,
                "two ranks, s": ranks,
                SPEED: one / ranks,
                SHARE: shared.memory / whole.memory,
            }
        finally:
            whole.end()
            shared.end()


class _Team:
    """Processes that make one call together, whenever they are told to."""

    def __init__(self, members: list[tuple[int | None, int]], folder: str, asked: Asked) -> None:
        context = get_context("spawn")
        self.ends, self.processes = [], []
        for rank, threads in members:
            mine, its = context.Pipe()
            process = context.Process(target=_member, args=(its, rank, threads, folder, asked), daemon=True)
            process.start()
            self.ends.append(mine)
            self.processes.append(process)
        self.memory = max(self._answers())

    def run(self) -> float:
        """Seconds until all are done."""
        started = time.perf_counter()
        for end in self.ends:
            end.send(True)
        self._answers()
        return time.perf_counter() - started

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def _answers(self) -> list[float]:
        found = []
        for end in self.ends:
            if not end.poll(LONGEST):
                raise FailedError("a process gave no answer")
            try:
                found.append(end.recv())
            except EOFError:
                raise FailedError("a process ended before it gave its answer") from None
        return found


def _member(connection: Connection, rank: int | None, threads: int, folder: str, asked: Asked) -> None:
    """What a process does: the call once, whose memory it tells, and again each time that it is asked to."""
    torch.set_num_threads(threads)
    if rank is not None:
        dist.init_process_group(
            "gloo", init_method=f"file://{os.path.join(folder, 'ranks')}", rank=rank, world_size=RANKS
        )
    with torch.no_grad():
        _call(rank, asked, 512)()  # compiles
        with peak() as measured:
            call = _call(rank, asked, LENGTH)
            call()
        connection.send(measured.added / MB)
        while connection.recv():
            call()
            connection.send(0.0)


def _call(rank: int | None, asked: Asked, length: int) -> Callable[[], Any]:
    """The call of one process, or of a rank's positions."""
    spans = [range(length)]
    if rank is not None:
        layout = head_tail(length, RANKS) if asked.causal else even(length, RANKS)
        spans = list(layout.spans[rank])
    own = sum(map(len, spans))
    query, key, value = (torch.randn(1, HEADS, own, DIM, dtype=asked.dtype) for _ in range(3))
    if rank is None:
        return lambda: pellucid.attention(query, key, value, is_causal=asked.causal)

    def shared() -> None:
        with sending(asked.way):
            shared_attention(query, key, value, is_causal=asked.causal, layout=layout)

    return shared

"""A corpus profiled by two processes of one thread each, against one such process, and the memory of that one."""

from __future__ import annotations

import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn

from benchmarks.goals import Within
from benchmarks.measuring.memory import MB
from benchmarks.measuring.process import FailedError
from benchmarks.work import Measurement
from pellucid.profiles.corpus import Corpus
from pellucid.profiles.disk.read import open_profile
from pellucid.profiles.reading.texts import Document
from pellucid.profiles.running.blocks import Shard
from pellucid.profiles.running.keeping import Kept
from pellucid.profiles.running.reader import Encoded
from pellucid.profiles.running.run import Progress, run
from pellucid.profiles.running.work import Work

DOCUMENTS, LONGEST, WORDS = 768, 256, 5_000
WIDTH, LAYERS, HEADS = 256, 4, 8
ROUNDS = 2
SPEED, GROWTH = "speed against one process", "growth from an eighth to all, MB"
PATIENCE = 300  # seconds for one run


def profiles() -> Iterator[Measurement]:
    yield Measurement(
        f"{DOCUMENTS} documents of up to {LONGEST} tokens, Llama of {LAYERS} layers of {HEADS} heads, {WIDTH} wide",
        _measured,
        (Within(SPEED, least=1.8), Within(GROWTH, most=32)),
    )


def _measured() -> Mapping[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        one, two = [], []
        for _ in range(ROUNDS):
            one.append(_timed(Path(folder), 1))
            two.append(_timed(Path(folder), 2))
    alone, shared = (statistics.median(seconds for seconds, _ in runs) for runs in (one, two))
    return {
        "one process, documents a second": DOCUMENTS / alone,
        "two processes, documents a second": DOCUMENTS / shared,
        SPEED: alone / shared,
        GROWTH: max(growth for _, growth in one),
    }


def _timed(folder: Path, count: int) -> tuple[float, float]:
    """Seconds until all parts are made and merged, once the models are loaded; and by how many MB the first grew."""
    context = get_context("spawn")
    ends, processes, paths = [], [], [folder / f"{index}-of-{count}.heads" for index in range(count)]
    for index, path in enumerate(paths):
        mine, its = context.Pipe()
        process = context.Process(target=_part, args=(its, path, index, count), daemon=True)
        process.start()
        ends.append(mine)
        processes.append(process)
    try:
        for end in ends:
            _answer(end)
        started = time.perf_counter()
        for end in ends:
            end.send(True)
        growth = [_answer(end) for end in ends]
        first, *rest = map(open_profile, paths)
        whole = first.merged(*rest)
        whole.save(folder / "whole.heads", overwrite=True)
        seconds = time.perf_counter() - started
    finally:
        for process in processes:
            process.kill()
            process.join()
    if whole.documents != DOCUMENTS or not whole.complete:
        raise FailedError(f"{whole.documents} documents were read")
    return seconds, growth[0]


def _answer(end: Connection) -> float:
    if not end.poll(PATIENCE):
        raise FailedError("a process gave no answer")
    try:
        return float(end.recv())
    except EOFError:
        raise FailedError("a process ended before it gave its answer") from None


def _part(connection: Connection, path: Path, index: int, count: int) -> None:
    """What a process does: its part of the corpus once, as soon as it is told to; it tells how much it has grown."""
    torch.set_num_threads(1)
    reader, work = Words(), Work(Corpus("words", "words"), "Llama", "random")
    warm = Kept(path.with_suffix(".warm"), work.blank())
    run(work, reader, itertools.islice(_documents(), 32), warm, shard=Shard(), told=lambda _: None)
    resident: list[int] = []

    def told(_: Progress) -> None:
        resident.append(_resident())

    connection.send(0.0)
    connection.recv()
    kept = Kept(path, work.blank())
    run(work, reader, _documents(), kept, shard=Shard(index, count), told=told)
    eighth = len(resident) // 8
    connection.send((max(resident[-eighth:]) - max(resident[: eighth + 1])) / MB)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _documents() -> Iterator[Document]:
    chance = random.Random(0)
    for number in range(DOCUMENTS):
        words = [str(int(WORDS * chance.random() ** 3)) for _ in range(chance.randint(1, LONGEST))]
        yield Document(number, str(number), " ".join(words), "", (number + 1) / DOCUMENTS)


class Words:
    """A model of random weights, and a tokenizer that knows numbers."""

    pads = True

    @cached_property
    def model(self) -> nn.Module:
        from transformers import LlamaConfig, LlamaModel

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, max_position_embeddings=LONGEST,
        )  # fmt: skip
        return LlamaModel(config).eval()

    def encode(self, text: str, target: str | None = None) -> Encoded:
        ids = [int(word) for word in text.split()]
        return Encoded(ids, tuple(text.split()), (False,) * len(ids))

    def run(self, batch: list[Encoded]) -> None:
        ids = [one.ids for one in batch]
        longest = max(map(len, ids))
        rows = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        self.model(input_ids=rows, attention_mask=mask, use_cache=False)

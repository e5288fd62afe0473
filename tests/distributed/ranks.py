"""Functions on several ranks: processes that speak gloo, and stay for the tests that follow.

A function is sent by its name, so it stands in a module; what it is given and gives is pickled. Processes are forked
off one that has imported torch, for a tenth of a second each, and wait for one another at most `PATIENCE`.
"""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

MOST = 4
PATIENCE = 60.0  # seconds; whoever waits longer is said to hang
MESHES = ((1,), (2,), (3,), (4,), (2, 2))
PRELOADED = ("torch.distributed.tensor", "pellucid.distributed.placements", "tests.distributed.calls")


class _Here(threading.local):
    """What a rank has, which may be a thread."""

    def __init__(self) -> None:
        self.groups: dict[int, Any] = {}
        self.meshes: dict[tuple[int, ...], DeviceMesh] = {}


_here = _Here()


class Outcome(NamedTuple):
    """What became of a function on a rank: what it gave, or the error, as its type's name, its text and where."""

    value: Any = None
    kind: str = ""
    text: str = ""
    where: str = ""


class Died(Exception):  # noqa: N818 - what happened, and no fault of a function
    """A rank's process has ended."""


def group(ranks: int) -> Any:
    """On a rank: the group of the first ranks, which are so many."""
    return _here.groups[ranks]


def mesh(*shape: int) -> DeviceMesh:
    """On a rank: the mesh of this shape, of the first ranks."""
    return _here.meshes[shape]


class Ranks:
    """Some processes that are the ranks of torch.distributed; others take their place once one has died."""

    def __init__(self, count: int = MOST, patience: float = PATIENCE) -> None:
        self.count, self.patience = count, patience
        self._processes: list[Any] = []
        self._pipes: list[Any] = []

    def outcomes(self, function: Callable[..., Any], *arguments: Any, ranks: int | None = None) -> list[Outcome]:
        """What becomes of `function(*arguments)` on each of the first ranks; Died's of one whose process has ended."""
        if not self._processes or not all(process.is_alive() for process in self._processes):
            self._start()
        pipes = self._pipes[: self.count if ranks is None else ranks]
        for pipe in pipes:
            pipe.send_bytes(pickle.dumps((function, arguments)))
        return [self._received(pipe) for pipe in pipes]

    def run(self, function: Callable[..., Any], *arguments: Any, ranks: int | None = None) -> list[Any]:
        """What `function(*arguments)` gives on each rank; fails where it raises on one."""
        outcomes = self.outcomes(function, *arguments, ranks=ranks)
        for rank, outcome in enumerate(outcomes):
            if outcome.kind:
                self.close()  # the others may wait for this one
                raise AssertionError(f"on rank {rank}: {outcome.kind}: {outcome.text}\n{outcome.where}")
        return [outcome.value for outcome in outcomes]

    def close(self) -> None:
        """End the processes."""
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            process.join()
            pipe.close()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        self.close()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        store = f"{tempfile.mkdtemp()}/store"
        for rank in range(self.count):
            own, other = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.count, store, self.patience, other), daemon=True)
            process.start()
            other.close()
            self._processes.append(process)
            self._pipes.append(own)

    def _received(self, pipe: Any) -> Outcome:
        if not pipe.poll(self.patience + 10):
            self.close()
            raise AssertionError(f"a rank has not answered after {self.patience + 10} s: it hangs")
        try:
            outcome: Outcome = pickle.loads(pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            return Outcome(None, Died.__name__)
        return outcome


@contextmanager
def some(count: int, patience: float = PATIENCE) -> Iterator[Ranks]:
    """Ranks of one's own, of which some may die."""
    made = Ranks(count, patience)
    try:
        yield made
    finally:
        made.close()


def _serve(rank: int, count: int, store: str, patience: float, pipe: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    wait = timedelta(seconds=patience)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=wait)
    prepare(count, patience, MESHES)
    while True:
        try:
            function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(answer(function, arguments))


def prepare(count: int, patience: float, shapes: Sequence[tuple[int, ...]]) -> None:
    """Make a rank's groups, of the first few or, where ranks are more, of all; and its meshes."""
    wait = timedelta(seconds=patience)
    for ranks in range(1, count + 1) if count <= MOST else (count,):
        _here.groups[ranks] = dist.new_group(list(range(ranks)), timeout=wait)
    for shape in shapes:
        if torch.Size(shape).numel() <= count:
            _here.meshes[shape] = DeviceMesh("cpu", torch.arange(torch.Size(shape).numel()).view(shape))


def answer(function: Callable[..., Any], arguments: Sequence[Any]) -> bytes:
    try:
        torch.manual_seed(0)
        return pickle.dumps(Outcome(function(*arguments)))
    except Exception as error:
        return pickle.dumps(Outcome(None, type(error).__name__, str(error), traceback.format_exc()))

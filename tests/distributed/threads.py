"""Eight ranks as threads of one process, where eight processes would be too many for a few cores.

torch's own tests have such a group, private to torch and without sends from rank to rank: a ring is for processes.
"""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from tests.distributed.ranks import PATIENCE, PRELOADED, Outcome, Ranks, answer, prepare

COUNT = 8
SHAPES = ((8,), (2, 4), (2, 2, 2))


class Threads(Ranks):
    """A process whose threads are the ranks, all of them at once."""

    def __init__(self) -> None:
        super().__init__(COUNT)

    def outcomes(self, function: Callable[..., Any], *arguments: Any, ranks: int | None = None) -> list[Outcome]:
        """What becomes of `function(*arguments)` on each rank; where one raises, others may be told SystemExit."""
        assert ranks in (None, COUNT)
        if not self._processes:
            self._start()
        (pipe,) = self._pipes
        pipe.send_bytes(pickle.dumps((function, arguments)))
        assert pipe.poll(PATIENCE + 10), "a rank does not answer: it hangs"
        told = [pickle.loads(own) for own in pickle.loads(pipe.recv_bytes())]
        return sorted(told, key=lambda outcome: outcome.kind == SystemExit.__name__) if _failed(told) else told

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        own, other = context.Pipe()
        process = context.Process(target=_serve, args=(other,), daemon=True)
        process.start()
        other.close()
        self._processes, self._pipes = [process], [own]


def _failed(told: list[Outcome]) -> bool:
    return any(outcome.kind for outcome in told)


def _serve(pipe: Any) -> None:
    from torch.testing._internal.distributed import multi_threaded_pg as threaded

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    threaded._install_threaded_pg()
    store = dist.HashStore()
    while True:
        try:
            asked = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        threaded.ProcessLocalGroup.reset()
        told: list[bytes] = [b""] * COUNT
        threads = [
            threading.Thread(target=_rank, args=(rank, store, asked, told, threaded.ProcessLocalGroup))
            for rank in range(COUNT)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pipe.send_bytes(pickle.dumps(told))


def _rank(rank: int, store: Any, asked: Any, told: list[bytes], group: Any) -> None:
    try:
        dist.init_process_group("threaded", rank=rank, world_size=COUNT, store=store)
        prepare(COUNT, PATIENCE, SHAPES)
        told[rank] = answer(*asked)
        if pickle.loads(told[rank]).kind:
            group.exception_handle(None)
        dist.destroy_process_group()
    except BaseException as error:  # SystemExit, where another has failed
        told[rank] = pickle.dumps(Outcome(None, type(error).__name__, str(error)))
        group.exception_handle(error)

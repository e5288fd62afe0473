"""This version against another checkout of it, row by row: two processes that take turns.

python -m benchmarks.versus OTHER [--only float32,decode] [--rounds 5] [--threads 2]

Each row is one of our own calls of `python -m benchmarks`. A ratio above 1 means that this version takes longer than
the other; with many rows some are above 1.03 by chance, and are told apart by running them again, with more rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.work import Entry

HERE = Path(__file__).resolve().parent.parent
SAMPLE = 0.1  # seconds of a sample, within which a short call is repeated


class Worker:
    """A process that runs one checkout's calls when it is asked."""

    def __init__(self, checkout: Path, only: str, threads: int) -> None:
        # What is asked are the rows of this checkout; only the package is another.
        command = [sys.executable, str(HERE / "benchmarks" / "versus.py"), "--serve", str(checkout), only, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.names: list[str] = self._answer()

    def seconds(self, row: int, repeats: int) -> float:
        """Of a call of a row."""
        return self._asked([row, repeats])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _asked(self, question: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended")
        return json.loads(line)


def compare(ours: Worker, others: Worker, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Of each row its name, our seconds a call, and the median of the rounds' ratios, ours to the other's."""
    for row, name in enumerate(ours.names):
        once = max(worker.seconds(row, 1) for worker in (ours, others))
        repeats = max(1, min(2000, round(SAMPLE / once)))
        own, ratios = [], []
        for _ in range(rounds):
            # Who comes second is not faster or slower for it: one round has both orders.
            orders = [[worker.seconds(row, repeats) for worker in pair] for pair in ((ours, others), (others, ours))]
            own.append((orders[0][0] + orders[1][1]) / 2)
            ratios.append(math.sqrt(orders[0][0] / orders[0][1] * orders[1][1] / orders[1][0]))
        yield name, statistics.median(own), statistics.median(ratios)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versus", description=__doc__.split("\n\n")[0])
    parser.add_argument("other", type=Path, help="another checkout of this repository")
    parser.add_argument("--only", default="", help="groups of rows, of `python -m benchmarks`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    ours, others = (Worker(path, options.only, options.threads) for path in (HERE, options.other.resolve()))
    ratios = []
    for name, seconds, ratio in compare(ours, others, options.rounds):
        ratios.append(ratio)
        print(f"{ratio:6.3f} {'slower' if ratio > 1.03 else '':6} {seconds * 1e3:10.3f} ms  {name}", flush=True)
    print(f"{statistics.geometric_mean(ratios):6.3f} geometric mean of {len(ratios)} rows")
    for worker in (ours, others):
        worker.close()


def serve(checkout: str, only: str, threads: str) -> None:
    """Answer with the seconds that a row takes, of the package in `checkout`."""
    sys.path[0] = checkout
    import torch

    import pellucid

    assert Path(pellucid.__file__).is_relative_to(checkout), pellucid.__file__
    sys.path[0] = str(HERE)  # where the rows are from
    torch.set_num_threads(int(threads))
    rows = list(_rows(only))
    print(json.dumps([name for name, _ in rows]), flush=True)
    prepared: tuple[int, Callable[[], Any]] | None = None
    with torch.no_grad():
        for line in sys.stdin:
            row, repeats = json.loads(line)
            if prepared is None or prepared[0] != row:
                prepared = None  # its tensors go before others come
                torch.manual_seed(row)
                prepared = row, rows[row][1]()
                prepared[1]()
            print(json.dumps(_seconds(prepared[1], repeats)), flush=True)


def _rows(only: str) -> Iterator[tuple[str, Callable[[], Callable[[], Any]]]]:
    from benchmarks.contenders.pellucid import NAME
    from benchmarks.work import Race
    from benchmarks.works import GROUPS

    for group, works in GROUPS.items():
        if only and group not in only.split(","):
            continue
        for work in works():
            for entry in work.entries if isinstance(work, Race) else ():
                if entry.contender == NAME:
                    yield f"{group}: {work.name}, {entry.name}", partial(_prepared, entry)


def _prepared(entry: Entry) -> Callable[[], Any]:
    from benchmarks.contenders import CONTENDERS

    return CONTENDERS[entry.contender].prepare(entry.task()).run


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    import time

    run()
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - started) / repeats


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()

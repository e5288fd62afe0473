"""From a description of work to what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.contract import Ready, UnableError
from benchmarks.contenders.pellucid import NAME as OURS
from benchmarks.limits import DOT, MEMORY, TILES, Limits
from benchmarks.limits.bandwidth import Reader
from benchmarks.measuring.check import Oracle, WrongAnswerError, check, oracle
from benchmarks.measuring.process import FailedError
from benchmarks.measuring.timing import Plan, take_turns
from benchmarks.results import Limit, Measured, Raced, Times
from benchmarks.task import Task
from benchmarks.work import Entry, Measurement, Race


def race(work: Race, limits: Limits, missing: dict[str, str], plan: Plan) -> Raced:
    """Prepare everybody, check everybody, and let those who are right take turns."""
    result = Raced(work.name, [entry.name for entry in work.entries], work.amount, work.unit, limits.of(work.limit))
    tasks = {entry.task: entry.task() for entry in work.entries if entry.contender not in missing}
    exact: dict[int, Oracle] = {}  # by the task's id: entries that share a task share its oracle
    runs: dict[str, Callable[[], Any]] = {}
    for entry in work.entries:
        if entry.contender in missing:
            result.absent[entry.name] = missing[entry.contender]
        elif ready := _checked(entry, tasks[entry.task], exact, result):
            runs[entry.name] = ready.run
    exact.clear()
    reader = _reader(tasks[work.entries[0].task], limits) if work.limit == MEMORY and runs else None
    times = take_turns(runs | ({MEMORY: reader} if reader else {}), plan)
    if reader:
        result.limit = Limit(MEMORY, reader.amount / statistics.median(times.pop(MEMORY)))
    units = {entry.name: entry.units for entry in work.entries}
    result.timed = {name: Times([second / units[name] for second in seconds]) for name, seconds in times.items()}
    result.notes += _notes(result, limits)
    return result


def measure(work: Measurement) -> Measured:
    """The quantities, or why there are none."""
    try:
        return Measured(work.name, dict(work.run()))
    except (FailedError, WrongAnswerError, OSError) as error:
        return Measured(work.name, {}, str(error))


def _checked(entry: Entry, task: Task, exact: dict[int, Oracle], result: Raced) -> Ready | None:
    """The contender, ready and right; None, with the reason in `result`, if it is not both."""
    try:
        ready = CONTENDERS[entry.contender].prepare(task)
        answer = ready.answer(ready.run())
    except UnableError as reason:
        result.absent[entry.name] = str(reason)
        return None
    except Exception as error:  # whatever a peer raises, the others are still to be measured
        result.refused[entry.name] = (
            f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        return None
    if id(task) not in exact:
        exact[id(task)] = oracle(task)
    try:
        result.errors[entry.name] = check(answer, exact[id(task)], ours=entry.contender == OURS)
    except WrongAnswerError as reason:
        result.refused[entry.name] = str(reason)
        return None
    return ready


def _reader(task: Task, limits: Limits) -> Reader:
    """What reads the task's keys and values; where a cache may hold them, as much as none does.

    How fast memory is read depends on where in it something lies, and on what else uses it at the time.
    """
    buffers = [task.call.key, task.call.value]
    if limits.fits(sum(tensor.nbytes for tensor in buffers)):
        buffers = [torch.ones(max(limits.read_by_size), dtype=torch.uint8)]
    return Reader(buffers, torch.get_num_threads())


def _notes(result: Raced, limits: Limits) -> list[str]:
    """What must be known to read the shares: data that never leave a cache, units that only some contenders use."""
    limit, amount = result.limit, result.amount
    if limit is None:
        return []
    if limit.name == DOT and TILES in limits.per_second:
        return [f"the processor's tiles, which some use, do {limits.per_second[TILES] / 1e9:.0f} GFLOP/s"]
    if limit.name != MEMORY:
        return []
    read = f"read at {limit.per_second / 1e9:.1f} GB/s in the same rounds"
    if not limits.fits(amount):
        return [f"keys and values are {read}"]
    return [
        f"{amount / 2**20:.0f} MB may stay in the last cache ({(limits.last_cache or 0) / 2**20:.0f} MB): "
        f"a buffer of that size is read at {limits.at_size(amount) / 1e9:.0f} GB/s; memory was {read}"
    ]

"""Taking turns: every contender once a round, in an order drawn anew each round."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

LEAST_SAMPLE = 2e-3  # seconds; shorter calls are repeated until they fill it
MOST_REPEATS = 2000
LEAST_ROUNDS = 5
PAUSE = 2e-3  # until a thread pool's workers have stopped looking for more work
LONG = 0.2  # seconds, from where on a call needs no warming up


class Plan(NamedTuple):
    """How long a race may go on: that many rounds, or fewer (but five) once `seconds` are over."""

    rounds: int
    seconds: float


class Habit(NamedTuple):
    """How a contender is sampled."""

    repeats: int
    warm: bool  # another had the processor before: caches and threads are made its own again by untimed calls


def take_turns(runs: dict[str, Callable[[], Any]], plan: Plan, seed: int = 0) -> dict[str, list[float]]:
    """Seconds a call of each contender, a number a round."""
    order = random.Random(seed)
    habits = {name: _habit(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    started = time.perf_counter()
    for number in range(plan.rounds):
        if number >= LEAST_ROUNDS and time.perf_counter() - started > plan.seconds:
            break
        for name in order.sample(list(runs), len(runs)):
            time.sleep(PAUSE)
            times[name].append(_sample(runs[name], habits[name]))
    return times


def _habit(run: Callable[[], Any]) -> Habit:
    """How many calls fill a sample; found after one call that may compile, load and warm up."""
    run()
    once = min(_seconds(run, 1) for _ in range(2))
    return Habit(min(MOST_REPEATS, max(1, math.ceil(LEAST_SAMPLE / once))), once < LONG)


def _sample(run: Callable[[], Any], habit: Habit) -> float:
    """Seconds a call."""
    if habit.warm:
        for _ in range(max(1, habit.repeats // 4)):
            run()
    return _seconds(run, habit.repeats) / habit.repeats


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return time.perf_counter() - started

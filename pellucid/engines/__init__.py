"""The engines: what can execute a Problem, and which one does.

Each engine is a function from a Problem to a Result, and says which problems it covers. A call goes to the first that
covers it: `cpu` is compiled for the processor, `portable` runs anywhere; `reference` is dense and the oracle.
PELLUCID_ENGINE, or `using`, names the one to use instead, where it covers the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch

from pellucid import reference
from pellucid.engines import cpu, portable
from pellucid.problem import Problem
from pellucid.result import Result


class Engine(NamedTuple):
    """What runs a problem, and whether it can."""

    run: Callable[[Problem], Result]
    covers: Callable[[Problem], bool]


def _everything(problem: Problem) -> bool:
    return True


def _cpu_covers(problem: Problem) -> bool:
    # What torch looks through, or records operation by operation, must be made of torch's operations.
    return not (problem.transformed or torch.jit.is_tracing()) and cpu.covers(problem)


# In order of preference.
ENGINES: dict[str, Engine] = {
    "cpu": Engine(cpu.run, _cpu_covers),
    "portable": Engine(portable.run, portable.covers),
    "reference": Engine(reference.run, _everything),
}
_chosen: ContextVar[str | None] = ContextVar("pellucid_engine", default=None)


def name_for(problem: Problem) -> str:
    """The name of the engine that will run `problem`."""
    wanted = _chosen.get() or _known(os.environ.get("PELLUCID_ENGINE") or "cpu", "PELLUCID_ENGINE")
    if ENGINES[wanted].covers(problem):
        return wanted
    return next(name for name, engine in ENGINES.items() if engine.covers(problem))


def run(problem: Problem) -> Result:
    """Execute `problem` on the engine chosen for it."""
    return ENGINES[name_for(problem)].run(problem)


@contextmanager
def using(engine: str) -> Iterator[None]:
    """Run every call inside the `with` on one engine, by its name, where it covers the call.

    Raises ValueError for an unknown name.
    """
    token = _chosen.set(_known(engine, "engine"))
    try:
        yield
    finally:
        _chosen.reset(token)


def _known(name: str, argument: str) -> str:
    if name not in ENGINES:
        raise ValueError(f"{argument}: no engine is named {name!r}; there are {', '.join(ENGINES)}")
    return name

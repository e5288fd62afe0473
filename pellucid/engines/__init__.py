"""The engines: what can execute a Problem, and which one does.

Each engine is a function from a Problem to a Result. `reference` is dense and the oracle; `portable` runs anywhere.
PELLUCID_ENGINE, or `using`, names the one to use instead of the choice made here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pellucid import reference
from pellucid.engines import portable
from pellucid.problem import Problem
from pellucid.result import Result

Engine = Callable[[Problem], Result]

ENGINES: dict[str, Engine] = {"reference": reference.run, "portable": portable.run}
_chosen: ContextVar[str | None] = ContextVar("pellucid_engine", default=None)


def name_for(problem: Problem) -> str:
    """The name of the engine that will run `problem`."""
    return _chosen.get() or _known(os.environ.get("PELLUCID_ENGINE") or "portable", "PELLUCID_ENGINE")


def run(problem: Problem) -> Result:
    """Execute `problem` on the engine chosen for it."""
    return ENGINES[name_for(problem)](problem)


@contextmanager
def using(engine: str) -> Iterator[None]:
    """Run every call inside the `with` on one engine, by its name. Raises ValueError for an unknown name."""
    token = _chosen.set(_known(engine, "engine"))
    try:
        yield
    finally:
        _chosen.reset(token)


def _known(name: str, argument: str) -> str:
    if name not in ENGINES:
        raise ValueError(f"{argument}: no engine is named {name!r}; there are {', '.join(sorted(ENGINES))}")
    return name

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
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pellucid import reference
from pellucid.engines import cpu, portable, rounded
from pellucid.engines.cpu import AddressError as AddressError  # which a Repeat raises
from pellucid.problem import Problem
from pellucid.result import Result


class Repeat(Protocol):
    """What runs problems that differ from one that was seen in their numbers alone, and looks at nothing else."""

    def output(
        self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, captured: tuple[Tensor, ...]
    ) -> Tensor:
        """The output alone. Raises AddressError for a tensor that has no memory, or too little."""

    def result(self, problem: Problem) -> Result:
        """The whole result; `problem`'s functions capture nothing. Raises AddressError as `output`."""


def _nothing_to_repeat(problem: Problem, shape: tuple[int, ...]) -> Repeat | None:
    return None


class Engine(NamedTuple):
    """What runs a problem, and whether it can."""

    run: Callable[[Problem], Result]
    covers: Callable[[Problem], bool]
    weights: Callable[[Problem, Tensor, Tensor, Tensor, Tensor], Tensor] = portable.weights
    repeat: Callable[[Problem, tuple[int, ...]], Repeat | None] = _nothing_to_repeat


def _everything(problem: Problem) -> bool:
    return True


def _cpu_covers(problem: Problem) -> bool:
    # What torch looks through, or records operation by operation, must be made of torch's operations.
    return not (problem.transformed or torch.jit.is_tracing()) and cpu.covers(problem)


# In order of preference.
ENGINES: dict[str, Engine] = {
    "cpu": Engine(cpu.run, _cpu_covers, cpu.weights, cpu.repeat),
    "portable": Engine(portable.run, portable.covers),
    "reference": Engine(reference.run, _everything),
}
_chosen: ContextVar[str | None] = ContextVar("pellucid_engine", default=None)


def preferred() -> str:
    """The name of the engine that runs what it covers. Raises ValueError if PELLUCID_ENGINE names none."""
    return _chosen.get() or _known(os.environ.get("PELLUCID_ENGINE") or "cpu", "PELLUCID_ENGINE")


def name_for(problem: Problem) -> str:
    """The name of the engine that will run `problem`."""
    wanted = preferred()
    if ENGINES[wanted].covers(problem):
        return wanted
    return next(name for name, engine in ENGINES.items() if engine.covers(problem))


def run(problem: Problem) -> Result:
    """Execute `problem` on the engine chosen for it.

    Raises ValueError if the storage of one of its tensors was cut or emptied: torch's own operations may read beyond.
    """
    problem.check_memory()
    return ENGINES[name_for(problem)].run(problem)


def repeat(problem: Problem, shape: tuple[int, ...]) -> Repeat | None:
    """What runs problems like this one again, their output in `shape`; None if their engine has no such thing."""
    return ENGINES[name_for(problem)].repeat(problem, shape)


def weights(problem: Problem, lse: Tensor, queries: Tensor, keys: Tensor, heads: Tensor) -> Tensor:
    """Any part of the weights before dropout, without gradient, on the engine chosen for the attention itself.

    Args:
        problem: the call.
        lse: of the chosen queries and heads, [*batch, heads, queries].
        queries: their indices, int64; so with those that follow.
        keys: indices of keys.
        heads: indices of query heads.

    Returns:
        [*batch, heads, queries, keys], float32 (float64 for float64 inputs).

    Raises:
        ValueError: see `run`.

    """
    with torch.no_grad():
        problem = replace(problem, dropout_p=0.0, readouts=())
        # Which rows are rounded cannot be asked of what is recorded or looked through.
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or problem.transformed
        if recorded or (engine := name_for(problem)) == "reference":
            return reference.weights(problem, queries, keys, heads)
        problem.check_memory()
        made = ENGINES[engine].weights(problem, lse, queries, keys, heads)
        whole = lambda rows: reference.weights(problem, queries[rows], keys, heads)  # noqa: E731
        return rounded.replaced(made, lse, problem.k_len, whole)


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

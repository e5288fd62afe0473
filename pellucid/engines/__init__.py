"""The engines: what can execute a Problem, and which one does.

Each engine is a function from a Problem to a Result, and says which problems it covers. A call goes to the first that
covers it: `cpu` is compiled for the processor, `portable` runs anywhere; `reference` is dense and the oracle.
PELLUCID_ENGINE, or `using`, names the one to use instead, where it covers the call.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pellucid import reference, showing
from pellucid.arguments import asked, describe
from pellucid.engines import cpu, portable, rounded
from pellucid.engines.cpu import AddressError as AddressError  # which a Repeat raises
from pellucid.engines.node import Upstream
from pellucid.engines.reason import Reason
from pellucid.problem import Problem, Result
from pellucid.readouts import Readout


class Repeat(Protocol):
    """What runs problems that differ from one that was seen in their numbers alone: what `Result.again` gives."""

    def output(
        self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, captured: tuple[Tensor, ...]
    ) -> Tensor:
        """The output alone.

        Args:
            query: laid out as in the call that was seen, as all of these.
            key: see `query`.
            value: see `query`.
            sinks: [heads], if that call had any.
            captured: what the functions captured; attn_mask, if that call had one.

        Returns:
            In the shape that `Result.again` was given.

        Raises:
            AddressError: for a tensor that has no memory, or too little.

        """

    def result(self, problem: Problem) -> Result:
        """The whole result; `problem`'s functions capture nothing. Raises AddressError as `output`."""


class Engine(NamedTuple):
    """What runs a problem, and why it does not run one.

    Attributes:
        run: attention and its readouts.
        why_not: why it does not run a problem; None if it does.
        weights: part of the weights, see `weights`.
        gradients: of a problem that it runs, see `gradients`.
        undifferentiated: why it does not compute them; None if it does.
        joined: see `joined`.

    """

    run: Callable[[Problem], Result]
    why_not: Callable[[Problem], Reason | None]
    weights: Callable[[Problem, Tensor, Tensor, Tensor, Tensor], Tensor] = portable.weights
    gradients: Callable[[Problem, Upstream, Result | None], tuple[Tensor, ...]] = portable.gradients
    undifferentiated: Callable[[Problem], Reason | None] = lambda _: None
    joined: Callable[[Problem, Tensor, Tensor], Result | None] = lambda *_: None


def _runs_everything(problem: Problem) -> None:
    return None


def _cpu_why_not(problem: Problem) -> Reason | None:
    if problem.transformed or torch.jit.is_tracing():
        return Reason("torch looks through a tensor, or records its operations: they must be torch's own")
    return cpu.why_not(problem)


# In order of preference.
ENGINES: dict[str, Engine] = {
    "cpu": Engine(cpu.run, _cpu_why_not, cpu.weights, cpu.gradients, cpu.undifferentiated, cpu.joined),
    "portable": Engine(portable.run, portable.why_not),
    "reference": Engine(reference.run, _runs_everything),
}
LARGE = 1 << 28  # scores of a call from which on it is told that a slower engine computes it
_chosen: ContextVar[str | None] = ContextVar("pellucid_engine", default=None)
_unwarned: ContextVar[bool] = ContextVar("pellucid_unwarned", default=False)
_told: set[str] = set()


def preferred() -> str:
    """The name of the engine that runs what it covers. Raises ValueError if PELLUCID_ENGINE names none."""
    return _chosen.get() or _known(os.environ.get("PELLUCID_ENGINE") or "cpu", "PELLUCID_ENGINE")


def name_for(problem: Problem) -> str:
    """The name of the engine that will run `problem`."""
    return next(name for name in _in_order() if ENGINES[name].why_not(problem) is None)


def _in_order() -> Iterator[str]:
    """The engines' names as they are asked: the preferred one, and then each in its turn."""
    wanted = preferred()
    yield wanted
    yield from (name for name in ENGINES if name != wanted)


class Why(NamedTuple):
    """Which engine runs a call, and why those that were asked before it do not.

    Attributes:
        engine: the name of the engine that runs it.
        declined: each engine before it, by name, with its reason in words.
        sent: of a call of several ranks, how keys and values along the sequence come together.

    """

    engine: str
    declined: dict[str, str]
    sent: str | None = None

    def __str__(self) -> str:
        sent = () if self.sent is None else (self.sent,)
        return "; ".join([self.engine, *(f"not {name}: {words}" for name, words in self.declined.items()), *sent])


def why(*arguments: Any, readouts: Iterable[Readout] | None = None, **named: Any) -> Why:
    """Which engine runs a call of `pellucid.observe`, and why each one before it does not. Nothing is computed.

    Args:
        *arguments: observe's, as all that follow.
        readouts: what would be read; none, as in `pellucid.attention`, if None.
        **named: attn_mask, is_causal, score_mod and the others.

    Returns:
        A `Why`, to print or to ask.

    Raises:
        TypeError: as `observe`.
        ValueError: as `observe`.

    Example:
        >>> import torch, pellucid
        >>> x = torch.rand(2, 5, 4)
        >>> pellucid.engines.why(x, x, x).engine
        'cpu'
        >>> wide = torch.rand(2, 5, 300)
        >>> print(pellucid.engines.why(wide, wide, x))
        portable; not cpu: head_dim is from 1 to 256, not 300

    """
    call, sent = asked(*arguments, readouts=readouts, **named), None
    if showing.is_of_several_ranks(call):
        problem, sent = showing.posed_to_ranks(call)
    else:
        problem, _ = describe(call)
    declined: dict[str, str] = {}
    for name in _in_order():
        reason = ENGINES[name].why_not(problem)
        if reason is None:
            return Why(name, declined, sent)
        declined[name] = reason.words
    raise AssertionError("the reference runs everything")


def warn_if_slow(problem: Problem) -> None:
    """Say once, of a large call that the engine in use declines for a reason that the caller can change, which that is.

    Not inside `unwarned`, where the call is not the caller's own.
    """
    if _unwarned.get() or torch.Size(problem.rows).numel() * problem.k_len <= LARGE:
        return
    name = preferred()
    reason = ENGINES[name].why_not(problem)
    if reason is not None and reason.mine and reason.words not in _told:
        _told.add(reason.words)
        scores = torch.Size(problem.rows).numel() * problem.k_len
        warnings.warn(
            f"attention of {scores:.1e} scores is left to a slower engine than {name}: {reason.words} "
            "(pellucid.engines.why tells it of any call)",
            stacklevel=5,
        )


@contextmanager
def unwarned() -> Iterator[None]:
    """No warning of slow calls inside the `with`: they are a model's."""
    token = _unwarned.set(True)
    try:
        yield
    finally:
        with suppress(ValueError):  # it is left in another context, which was never asked
            _unwarned.reset(token)


def run(problem: Problem) -> Result:
    """Execute `problem` on the engine chosen for it.

    Raises ValueError if the storage of one of its tensors was cut or emptied, for torch's own operations may read
    beyond, and if a readout holds numbers that do not fit it.
    """
    problem.check_memory()
    for readout in problem.readouts:
        readout.check_numbers(problem)
    return ENGINES[name_for(problem)].run(problem)


def joined(problem: Problem, output: Tensor, lse: Tensor) -> Result | None:
    """Execute `problem` as `run` does, and let its output become part of what the same queries have of other keys.

    Args:
        problem: a call without dropout and sinks, whose readouts are of rows.
        output: over the other keys, in the precision of the computation; replaced in place by that over all.
        lse: over them, contiguous; replaced as well.

    Returns:
        The joined output, and what is read of the problem's own keys, with their lse if anything is; None if the engine
        does not join outputs, and then nothing was done.

    Raises:
        ValueError: see `run`; output or lse is not of these rows and this precision.

    """
    shapes = (*problem.rows, problem.value.shape[-1]), tuple(problem.rows)
    for name, tensor, shape in zip(("output", "lse"), (output, lse), shapes, strict=True):
        if tensor.shape != shape or tensor.dtype != problem.dtype:
            raise ValueError(
                f"{name}: {list(shape)} of {problem.dtype} is needed, got {list(tensor.shape)} of {tensor.dtype}"
            )
    if not lse.is_contiguous():
        raise ValueError("lse: it must be contiguous")
    problem.check_memory()
    for readout in problem.readouts:
        readout.check_numbers(problem)
    with torch.no_grad():
        return ENGINES[name_for(problem)].joined(problem, output, lse)


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


def gradients(problem: Problem, upstream: Upstream, result: Result | None = None) -> tuple[Tensor, ...]:
    """The gradients of `problem.differentiable`, given those of its results: what autograd would find, without it.

    The forward pass is run again where the engine needs more than the result, or it is not given.

    Args:
        problem: the call.
        upstream: the gradients of what `run` gives.
        result: the output and lse, if they are known. Where the problem's keys are a range of a call's, without sinks
            and without gradients of readings, those of all keys give the gradients of that call.

    Returns:
        A tensor for each of `problem.differentiable`, of its shape and dtype.

    Raises:
        ValueError: see `run`.

    """
    problem.check_memory()
    with torch.no_grad():
        able = (ENGINES[name] for name in _in_order() if ENGINES[name].why_not(problem) is None)
        return next(engine for engine in able if engine.undifferentiated(problem) is None).gradients(
            problem, upstream, result
        )


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

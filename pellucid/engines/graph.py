"""Attention as one operator, `pellucid::attention`: what the graphs of torch.compile and torch.export hold of a call.

A graph holds tensors, numbers and text. So the traced functions and the readouts become text, with the tensors that
they capture in a list, and are read back when the graph runs. `pellucid::attention_gradients` is the operator's
derivative; the shapes of results are known without running either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from inspect import isabstract, isclass
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from pellucid import engines, readouts
from pellucid._version import __version__
from pellucid.engines import twice
from pellucid.engines.node import Upstream
from pellucid.language import Expression, read, write
from pellucid.problem import Problem, Result
from pellucid.readouts import LogSumExp, Readout
from pellucid.readouts.base import tensors_of


def holds(problem: Problem) -> bool:
    """Whether the operator can say all of a problem: a user's own readouts it cannot."""
    return all(KINDS.get(_word(type(readout))) is type(readout) for readout in problem.readouts)


def is_wanted(problem: Problem) -> bool:
    """Whether the operator is wanted outside of torch.compile as well: somebody records, or tensors have no numbers."""
    recording = torch._C._len_torch_dispatch_stack() > 0
    empty = any(map(_has_no_numbers, problem.tensors))
    return (recording or empty) and not problem.transformed and holds(problem)


def _has_no_numbers(tensor: Tensor) -> bool:
    return tensor.is_meta or torch._C._dispatch_keys(tensor).has(torch._C.DispatchKey.Python)


def run(problem: Problem) -> Result:
    """What an engine's `run` gives, as one node of the graph that is being made."""
    followed = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in problem.tensors)
    if followed and not problem.readouts:
        result = run(replace(problem, readouts=(LogSumExp(),)))  # which spares backward the forward pass
        return Result(result.output, result.output.new_empty(0), {})
    functions = [problem.score, problem.mask, *(e for readout in problem.readouts for e in readout.expressions)]
    text, captured = write(*functions)
    seed = torch.as_tensor(problem.dropout_seed, device="cpu") if problem.dropout_p else None
    made = torch.ops.pellucid.attention(
        problem.query, problem.key, problem.value, problem.sinks, captured, seed, text,
        ",".join([_written(readout) for readout in problem.readouts]),
        problem.scale, problem.dropout_p, list(problem.batch), problem.heads, MADE_BY,
    )  # fmt: skip
    if not problem.readouts:
        return Result(made[0], made[0].new_empty(0), {})
    tensors = iter(made[2:])
    return Result(made[0], made[1], {r.name: _reading(r, made[1], tensors) for r in problem.readouts})


def _reading(readout: Readout, lse: Tensor, tensors: Iterator[Tensor]) -> Any:
    """A readout's result, from the operator's remaining results."""
    if readout.is_lse:
        return lse
    result = readout.result_of(tensors)
    return result if readout.differentiable else readout.map(result, Tensor.detach)


# Readouts as text.


def _word(kind: type[Readout]) -> str:
    """What a class is called: by the name of all its readouts, or if each has its own, by that of the class."""
    return kind.__dict__.get("name", kind.__name__.lower())


def _written(readout: Readout) -> str:
    return " ".join(map(str, (_word(type(readout)), *readout.numbers)))


KINDS: dict[str, type[Readout]] = {
    _word(kind): kind
    for kind in (getattr(readouts, name) for name in readouts.__all__)
    if isclass(kind) and issubclass(kind, Readout) and not isabstract(kind)
}


def _readout(text: str, place: int, functions: Iterator[Expression]) -> Readout:
    word, *words = text.split(" ")
    return KINDS[word].again(tuple(map(_number, words)), functions, f"{word} {place}")


def _number(word: str) -> int | float | None:
    if word == "None":
        return None
    return int(word) if word.lstrip("-").isdigit() else float(word)


# The operators.


class Recorded(NamedTuple):
    """What a graph holds of a call, in the order of the operators' schema."""

    query: Tensor
    key: Tensor
    value: Tensor
    sinks: Tensor | None
    captured: Sequence[Tensor]  # by the functions
    seed: Tensor | None  # of dropout
    functions: str
    readouts: str
    scale: float
    dropout_p: float
    batch: Sequence[int]
    heads: int
    made_by: str

    @property
    def problem(self) -> Problem:
        """The problem posed."""
        score, mask, *others = read(self.functions, list(self.captured))
        rest = iter(others)
        texts = self.readouts.split(",") if self.readouts else []
        asked = tuple(_readout(text, place, rest) for place, text in enumerate(texts))
        for place, readout in enumerate(asked):
            if readout.name in [
                other.name for other in asked[:place]
            ]:  # two of a kind, under names that no graph keeps
                readout.name = f"{readout.name} {place}"
        return Problem(
            self.query, self.key, self.value, tuple(self.batch), self.heads, self.scale, score, mask, self.sinks,
            self.dropout_p, 0 if self.seed is None else self.seed, asked,
        )  # fmt: skip


SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor? sinks, Tensor[] captured, Tensor? seed, str functions, "
    "str readouts, float scale, float dropout_p, SymInt[] batch, SymInt heads, str made_by{}) -> Tensor[]"
)
torch.library.define("pellucid::attention", SCHEMA.format(""))
GIVEN = ", Tensor?[] results, bool[] wanted, Tensor?[] upstream"
torch.library.define("pellucid::attention_gradients", SCHEMA.format(GIVEN))
# Torch keeps compiled graphs on disk by what is in them, and knows of no version but its own: so this is in each node.
MADE_BY = f"{__version__} {crc32((SCHEMA + GIVEN).encode()):08x}"


@torch.library.impl("pellucid::attention", "CompositeExplicitAutograd")
def _attention(*arguments: Any) -> list[Tensor]:
    """The output; if there are readouts, also lse and each one's tensors, LogSumExp's excepted."""
    problem = Recorded(*arguments).problem
    with torch.no_grad(), problem.own_precision():
        result = engines.run(problem)
    if not problem.readouts:
        return [result.output]
    others = [result.readings[readout.name] for readout in problem.readouts if not readout.is_lse]
    return [result.output, result.lse, *(tensor for reading in others for tensor in tensors_of(reading))]


@torch.library.register_fake("pellucid::attention")
def _attention_shapes(*arguments: Any) -> list[Tensor]:
    problem = Recorded(*arguments).problem
    output = problem.query.new_empty(*problem.rows, problem.value.shape[-1])
    if not problem.readouts:
        return [output]
    made = [output, problem.query.new_empty(problem.rows, dtype=problem.dtype)]
    for readout in problem.readouts:
        if not readout.is_lse:
            made += tensors_of(readout.empty(problem))
    return made


@torch.library.impl("pellucid::attention_gradients", "CompositeExplicitAutograd")
def _gradients(*arguments: Any) -> list[Tensor]:
    """The gradients of query, key, value, sinks if any, and captured tensors that want one, given those of the results.

    `results` are output and lse, if lse is known.
    """
    *own, results, wanted, upstream = arguments
    call = Recorded(*own)
    followed = [t.detach().requires_grad_(own) for t, own in zip(call.captured, wanted, strict=True)]
    call = call._replace(captured=followed)
    problem, rest = call.problem, iter(upstream[2:])
    readings = {}
    for readout in problem.readouts:
        if not readout.is_lse:
            gradient = readout.result_of(rest)
            gradient = gradient[0] if isinstance(gradient, tuple) else gradient
            if readout.differentiable and gradient is not None:
                readings[readout.name] = gradient
    with torch.no_grad(), problem.own_precision():
        given = Upstream(upstream[0], upstream[1] if problem.readouts else None, readings)
        made = engines.gradients(problem, given, Result(results[0], results[1], {}) if results else None)
    return [gradient.contiguous() for gradient in made]


@torch.library.register_fake("pellucid::attention_gradients")
def _gradients_shapes(*arguments: Any) -> list[Tensor]:
    *own, _, wanted, _ = arguments
    call = Recorded(*own)
    sinks = [] if call.sinks is None else [call.sinks]
    captured = [tensor for tensor, own in zip(call.captured, wanted, strict=True) if own]
    tensors = [call.query, call.key, call.value, *sinks, *captured]
    return [tensor.new_empty(tensor.shape) for tensor in tensors]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    query, key, value, sinks, captured, seed, *ctx.rest = inputs
    results = output[:2] if len(output) > 1 else []
    ctx.results = len(results)
    ctx.save_for_backward(query, key, value, sinks, seed, *results, *captured)


def _backward(ctx: Any, upstream: list[Tensor | None]) -> tuple[Any, ...]:
    query, key, value, sinks, seed, *others = ctx.saved_tensors
    results, captured = others[: ctx.results], others[ctx.results :]
    own = (query, key, value, sinks, captured, seed, *ctx.rest)
    wanted = [bool(needed) for needed in ctx.needs_input_grad[4]] if captured else []

    def gradients(*given: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(torch.ops.pellucid.attention_gradients(*own, results, wanted, given[: len(upstream)]))

    again = torch.is_grad_enabled()  # with create_graph=True, of what is no graph of torch.compile
    made = iter(_twice(Recorded(*own).problem, gradients, upstream) if again else gradients(*upstream))
    query, key, value = next(made), next(made), next(made)
    sinks = None if sinks is None else next(made)
    of_captured = [next(made) if needed else None for needed in wanted]
    # An empty list (no batch) is to torch one of tensors, with a gradient for each.
    return query, key, value, sinks, of_captured, None, *([] if own == [] else None for own in ctx.rest)


def _twice(problem: Problem, gradients: twice.Made, upstream: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Gradients that can be differentiated again."""
    others = [readout for readout in problem.readouts if not readout.is_lse]
    names = [readout.name for readout in others for _ in tensors_of(readout.empty(problem))]
    return twice.gradients(problem, gradients, names, upstream if problem.readouts else [*upstream, None])


torch.library.register_autograd("pellucid::attention", _backward, setup_context=_save)

"""The portable engine: blockwise online softmax in plain torch operations, on any device and dtype that torch has.

Memory beyond inputs and results is a few tiles, whatever the lengths. Tiles that the mask leaves empty are skipped.
The backward pass recomputes each tile's weights from the rows' softmax, as FlashAttention does (Dao et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid.engines import node, rounded
from pellucid.engines.node import Upstream
from pellucid.engines.reason import Reason
from pellucid.language import SCORE, Expression, Interval, bounds, derivatives, evaluate, walk
from pellucid.problem import Problem, Result
from pellucid.readouts.base import ColumnReadout, RowReadout, Rows, State, Tile, tensors_of
from pellucid.softmax import Merge, Softmax, finite
from pellucid.tensors.transformed import has_tangent

# Scores in one tile, over all batches and heads: 4 MB in float32.
TILE = 1 << 20
_blocks: ContextVar[tuple[int, int] | None] = ContextVar("pellucid_portable_blocks", default=None)


def why_not(problem: Problem) -> Reason | None:
    """Why this engine does not run `problem`: torch.func keeps its gradients from a function like ours."""
    if problem.transformed and (node.is_wanted(problem) or any(map(has_tangent, problem.tensors))):
        return Reason("torch.func or forward-mode differentiation looks through a tensor that needs a gradient")
    return None


def run(problem: Problem) -> Result:
    """Attention and its readouts, differentiable with respect to `problem.differentiable`."""
    if node.is_wanted(problem):
        return node.run(problem, node.Steps(_forward, _backward))
    return _forward(problem)[0]


def weights(problem: Problem, lse: Tensor, queries: Tensor, keys: Tensor, heads: Tensor) -> Tensor:
    """The weights of chosen queries, keys and heads, [*batch, heads, queries, keys], in the problem's precision.

    Args:
        problem: the call.
        lse: of the chosen queries and heads, [*batch, heads, queries].
        queries: their indices, int64; so with those that follow.
        keys: indices of keys.
        heads: indices of query heads.

    """
    return torch.exp(problem.scores(queries, keys, heads) - finite(lse)[..., None])


def gradients(problem: Problem, upstream: Upstream, result: Result | None = None) -> tuple[Tensor, ...]:
    """The gradients of `problem.differentiable`, given those of what `run` returns: autograd left out.

    The forward pass is run again, unless output and lse are known and no gradient comes through a readout.

    Args:
        problem: the call.
        upstream: the gradients of its results.
        result: output and lse; those of all keys, where the problem's are a range of them.

    Returns:
        A tensor for each of `problem.differentiable`, of its shape and dtype.

    """
    if result is None or problem.sinks is not None or upstream.readings or rounded.has_any(result.lse):
        return _backward(problem, *_forward(problem), upstream)
    rows = Softmax(result.lse, (result.lse != -torch.inf).to(result.lse.dtype))
    return _backward(problem, result, _Kept(rows, {}), upstream)


def _backward(problem: Problem, result: Result, kept: _Kept, upstream: Upstream) -> tuple[Tensor, ...]:
    made = _Backward(problem, result.output, *kept)
    return made.run(upstream.output, upstream.lse, upstream.readings)


@contextmanager
def tiles(queries: int, keys: int) -> Iterator[None]:
    """Use tiles of this size inside the `with`: for tests, which want many tiles of few tokens."""
    token = _blocks.set((queries, keys))
    try:
        yield
    finally:
        _blocks.reset(token)


class _Partial(NamedTuple):
    """The running state of a block of rows: the softmax, the output's sum, and each row readout's state."""

    softmax: Softmax
    output: Tensor
    states: list[State]


class _Kept(NamedTuple):
    """What the backward pass needs beside the result."""

    keys: Softmax  # of all rows, over the keys alone
    states: dict[str, State]  # of each row readout


def _forward(problem: Problem) -> tuple[Result, _Kept]:
    rows_of = [r for r in problem.readouts if isinstance(r, RowReadout)]
    columns_of = {r: r.start(problem) for r in problem.readouts if isinstance(r, ColumnReadout)}
    finished = []
    for queries in _query_blocks(problem):
        partial = _row_pass(problem, queries, rows_of)
        rows = Rows(partial.softmax, _sink(problem))
        output = (partial.output * rows.factor[..., None]).to(problem.query.dtype)
        results = [readout.finish(state, rows) for readout, state in zip(rows_of, partial.states, strict=True)]
        finished.append((output, rows.whole.lse, partial, results))
        if columns_of:
            _column_pass(problem, queries, rows.whole, columns_of)
    return _assembled(problem, finished, rows_of, columns_of)


def _assembled(
    problem: Problem, finished: list[Any], rows_of: list[RowReadout], columns_of: Any
) -> tuple[Result, _Kept]:
    """The blocks of rows put together."""
    outputs, lses, partials, results = zip(*finished, strict=True)
    readings: dict[str, Any] = {}
    states: dict[str, State] = {}
    row = len(problem.rows) - 1  # the dimension of the queries
    for i, readout in enumerate(rows_of):
        parts = [tensors_of(result[i]) for result in results]
        whole = [torch.cat(tensors, readout.queries_at(problem)) for tensors in zip(*parts, strict=True)]
        readings[readout.name] = readout.result_of(iter(whole))
        states[readout.name] = tuple(torch.cat(s, row) for s in zip(*(p.states[i] for p in partials), strict=True))
    for readout, state in columns_of.items():
        readings[readout.name] = readout.finish(state, problem)
    keys = Softmax(*(torch.cat(part, row) for part in zip(*(p.softmax for p in partials), strict=True)))
    return Result(torch.cat(outputs, row), torch.cat(lses, row), readings), _Kept(keys, states)


def _row_pass(problem: Problem, queries: slice, readouts: list[RowReadout]) -> _Partial:
    running = _partial(problem, queries, slice(0, 0), True, readouts)  # no key yet
    for keys, full in _key_blocks(problem, queries):
        running = _merged(running, _partial(problem, queries, keys, full, readouts), readouts)
    return running


def _partial(problem: Problem, queries: slice, keys: slice, full: bool, readouts: list[RowReadout]) -> _Partial:
    """The state over one tile's keys alone."""
    tile = _tile(problem, queries, keys, full)
    weights = tile.exponentials
    if problem.dropout_p:
        weights = weights * problem.dropout(tile.place)
    output = weights @ problem.value_of_heads(keys)
    return _Partial(tile.softmax, output, [readout.of_tile(tile) for readout in readouts])


def _merged(left: _Partial, right: _Partial, readouts: list[RowReadout]) -> _Partial:
    merge = Merge(left.softmax, right.softmax)
    output = left.output * merge.left_factor[..., None] + right.output * merge.right_factor[..., None]
    pairs = zip(readouts, left.states, right.states, strict=True)
    return _Partial(merge.whole, output, [readout.merge(a, b, merge) for readout, a, b in pairs])


def _column_pass(problem: Problem, queries: slice, softmax: Softmax, columns_of: dict[ColumnReadout, Tensor]) -> None:
    # A row that is NaN has NaN also for keys that it may not look at.
    every = not problem.transformed and bool(softmax.total.isnan().any())
    for keys, full in _key_blocks(problem, queries, every):
        tile = _tile(problem, queries, keys, full)
        weights = softmax.weights(tile.scores)
        for readout, state in columns_of.items():
            readout.update(state, weights, tile.place, problem)


def _tile(problem: Problem, queries: slice, keys: slice, full: bool) -> Tile:
    place = problem.place(queries, keys)
    return Tile(problem.modify(problem.matrix(queries, keys), place, full), place, problem.dtype)


def _sink(problem: Problem) -> Tensor | None:
    return None if problem.sinks is None else problem.sinks.detach().to(problem.dtype)[:, None]


def _block_sizes(problem: Problem) -> tuple[int, int]:
    if (forced := _blocks.get()) is not None:
        return forced
    heads = max(1, torch.Size(problem.rows[:-1]).numel())
    keys = min(max(problem.k_len, 1), 512)
    queries = max(32, min(TILE // (heads * keys), 1024))
    return queries, max(64, min(TILE // (heads * queries), 4096))


def _query_blocks(problem: Problem) -> list[slice]:
    size, _ = _block_sizes(problem)
    return [slice(i, min(i + size, problem.q_len)) for i in range(0, problem.q_len, size)] or [slice(0, 0)]


def _key_blocks(problem: Problem, queries: slice, every: bool = False) -> Iterator[tuple[slice, bool]]:
    """The tiles of a block of rows that may hold an allowed key, or every one; whether all of a tile's are allowed."""
    _, size = _block_sizes(problem)
    if queries.start == queries.stop or not torch.Size(problem.rows[:-1]).numel():
        return
    for start in range(0, problem.k_len, size):
        keys = slice(start, min(start + size, problem.k_len))
        allowed = _bounds(problem, queries, keys)
        if allowed.high or every:
            yield keys, bool(allowed.low)


def _bounds(problem: Problem, queries: slice, keys: slice) -> Interval:
    """Whether keys may be, and are all, allowed in a tile."""
    places = {
        "b": Interval(0, torch.Size(problem.batch).numel() - 1),
        "h": Interval(0, problem.heads - 1),
        "q": Interval(queries.start, queries.stop - 1),
        "k": Interval(keys.start, keys.stop - 1),
    }
    score = bounds(problem.score, places)
    if score is not None and score.high == -torch.inf:
        return Interval(False, False)
    allowed = bounds(problem.mask, places)
    assert allowed is not None
    return allowed


class _Captures:
    """Accumulates the gradients of one expression's captured tensors."""

    def __init__(self, expression: Expression, totals: dict[int, Tensor]) -> None:
        self.totals = totals
        self.loads = [n for n in walk(expression) if n.op == "load" and id(n.value) in totals]
        self.derivatives = derivatives(expression, self.loads)
        self.indices = [index for load in self.loads for index in load.args]

    def add(self, upstream: Tensor, inputs: dict[str, Tensor], dtype: torch.dtype, allowed: Tensor) -> None:
        """Add the gradients of a tile, given the gradient with respect to the expression's value."""
        if not self.loads:
            return
        values = evaluate(*self.derivatives, *self.indices, inputs=inputs, dtype=dtype)
        places = iter(values[len(self.loads) :])
        for load, derivative in zip(self.loads, values[: len(self.loads)], strict=True):
            gradient = torch.where(allowed, upstream * derivative, 0.0)
            index = tuple(next(places) for _ in load.args)
            shape = torch.broadcast_shapes(*(i.shape for i in index)) if index else ()
            gradient = gradient.sum_to_size((1,) * (gradient.ndim - len(shape)) + tuple(shape)).reshape(shape)
            total = self.totals[id(load.value)]
            if index:
                total.index_put_(index, gradient, accumulate=True)
            else:
                total += gradient


@dataclass
class _Backward:
    """The backward pass: each tile's weights again, and from them the gradients of everything that needs one."""

    problem: Problem
    output: Tensor
    keys: Softmax
    states: dict[str, State]

    def __post_init__(self) -> None:
        problem = self.problem
        zeros = [torch.zeros_like(t, dtype=problem.dtype) for t in (problem.query, problem.key, problem.value)]
        self.query, self.key, self.value = zeros
        self.sinks = None if problem.sinks is None else torch.zeros_like(problem.sinks, dtype=problem.dtype)
        self.totals = {id(t): torch.zeros_like(t, dtype=problem.dtype) for t in problem.captured}
        self.score_captures = _Captures(problem.score, self.totals)
        self.readouts = {r.name: r for r in problem.readouts if isinstance(r, RowReadout)}
        self.columns = {r.name: r for r in problem.readouts if isinstance(r, ColumnReadout)}
        self.readout_captures = {
            name: [made for e in readout.expressions if (made := _Captures(e, self.totals)).loads]
            for name, readout in self.readouts.items()
        }
        (self.score_derivative,) = derivatives(problem.score, [SCORE])

    def run(
        self, output_gradient: Tensor | None, lse_gradient: Tensor | None, wanted: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """The gradients of `problem.differentiable`, in order."""
        problem = self.problem
        zero = torch.zeros((), dtype=problem.dtype, device=problem.query.device)
        output_gradient = zero.expand_as(self.output) if output_gradient is None else output_gradient.to(problem.dtype)
        lse_gradient = zero.expand_as(self.keys.total) if lse_gradient is None else lse_gradient
        of_columns = {readout: wanted[name] for name, readout in self.columns.items() if name in wanted}
        for queries in _query_blocks(problem):
            block = {
                name: _of_rows(wanted[name], readout.queries_at(problem), queries)
                for name, readout in self.readouts.items()
                if name in wanted
            }
            self._rows(queries, output_gradient[..., queries, :], lse_gradient[..., queries], block, of_columns)
        own = [self.query, self.key, self.value, *([] if self.sinks is None else [self.sinks]), *self.totals.values()]
        return tuple(g.to(t.dtype) for g, t in zip(own, problem.differentiable, strict=True))

    def _rows(
        self,
        queries: slice,
        output_gradient: Tensor,
        lse_gradient: Tensor,
        wanted: dict[str, Tensor],
        of_columns: dict[ColumnReadout, Tensor],
    ) -> None:
        problem = self.problem
        rows = Rows(Softmax(*(part[..., queries] for part in self.keys)), _sink(problem))
        row = len(problem.rows) - 1
        states = {name: tuple(_of_rows(state, row, queries) for state in self.states[name]) for name in wanted}
        # The sum over the keys of weight * (the gradient with respect to it); the sink's value is 0.
        mean = (output_gradient * self.output[..., queries, :].to(problem.dtype)).sum(-1)
        mean = mean + self._mean_of_columns(queries, rows, of_columns)
        for keys, full in _key_blocks(problem, queries):
            place = problem.place(queries, keys)
            raw = problem.matrix(queries, keys)
            tile = Tile(problem.modify(raw, place, full), place, problem.dtype)
            weights = rows.whole.weights(tile.scores)
            score_gradient = self._values(keys, tile, weights, output_gradient) + self._columns(place, of_columns)
            score_gradient = weights * (score_gradient + (lse_gradient - mean)[..., None])
            for name, gradient in wanted.items():
                readout = self.readouts[name]
                score_gradient += readout.score_gradient(gradient, tile, weights, states[name], rows)
                for captures in self.readout_captures[name]:
                    captures.add(gradient[..., None] * weights, place, problem.dtype, tile.scores != -torch.inf)
            self._scores(queries, keys, tile, raw, score_gradient)
        if self.sinks is not None:
            sink_gradient = rows.sink_weight * (lse_gradient - mean)
            for name, gradient in wanted.items():
                sink_gradient = sink_gradient + self.readouts[name].sink_gradient(gradient, states[name], rows)
            self.sinks += sink_gradient.sum_to_size(problem.heads, 1).flatten()

    def _mean_of_columns(self, queries: slice, rows: Rows, wanted: dict[ColumnReadout, Tensor]) -> Tensor | float:
        """What sums over queries add to a row's mean: forward, which has no gradients yet, could not know it."""
        mean: Tensor | float = 0.0
        for keys, full in _key_blocks(self.problem, queries) if wanted else ():
            tile = _tile(self.problem, queries, keys, full)
            mean = mean + (rows.whole.weights(tile.scores) * self._columns(tile.place, wanted)).sum(-1)
        return mean

    def _columns(self, place: dict[str, Tensor], wanted: dict[ColumnReadout, Tensor]) -> Tensor | float:
        """The gradient with respect to a tile's weights, through sums over queries."""
        parts = [readout.weight_gradient(gradient, place, self.problem) for readout, gradient in wanted.items()]
        return sum(parts, 0.0)

    def _values(self, keys: slice, tile: Tile, weights: Tensor, output_gradient: Tensor) -> Tensor:
        """Add to the value's gradient; give the gradient with respect to the weights, through the output."""
        kept: Tensor | float = self.problem.dropout(tile.place) if self.problem.dropout_p else 1.0
        _add(self.value, keys, (weights * kept).mT @ output_gradient)
        return (output_gradient @ self.problem.value_of_heads(keys).mT) * kept

    def _scores(self, queries: slice, keys: slice, tile: Tile, raw: Tensor, gradient: Tensor) -> None:
        """Carry the gradient of a tile's scores to query, key and what score_mod captured."""
        problem = self.problem
        if problem.score is not SCORE:
            allowed = tile.scores != -torch.inf
            inputs = {"score": raw, **tile.place}
            self.score_captures.add(gradient, inputs, problem.dtype, allowed)
            (derivative,) = evaluate(self.score_derivative, inputs=inputs, dtype=problem.dtype)
            gradient = torch.where(allowed, gradient * derivative, 0.0)
        gradient = gradient * problem.scale
        _add(self.query, queries, gradient @ problem.key_of_heads(keys))
        _add(self.key, keys, gradient.mT @ problem.query_of_heads(queries))


def _of_rows(tensor: Tensor, dimension: int, queries: slice) -> Tensor:
    return tensor.narrow(dimension, queries.start, queries.stop - queries.start)


def _add(total: Tensor, block: slice, part: Tensor) -> None:
    """Add a block's gradient, [*batch, heads, block, dim], to that of a tensor that was broadcast or grouped."""
    own = total[..., block, :]
    if own.shape[-3] not in (1, part.shape[-3]):
        part = part.unflatten(-3, (own.shape[-3], -1)).sum(-3)
    own += part.sum_to_size(own.shape)

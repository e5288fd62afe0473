"""At: the weights of keys that are named beforehand, such as those of an answer in a prompt, for each query."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.language import INPUTS, Expression, constant, evaluate, load, operation, walk
from pellucid.language.shift import offset, substituted, with_tensors
from pellucid.readouts.base import Dense, Numbers, RowReadout, Rows, State, Tile
from pellucid.softmax import Merge
from pellucid.tensors import compiling
from pellucid.tensors.transformed import is_transformed

if TYPE_CHECKING:
    from pellucid.problem import Problem

NONE, FIRST = constant(-1), constant(0)
COLUMN = INPUTS["k"]  # what "k" stands for in the keys' expression: the first of the keys asked for, the second, ...


class At(RowReadout):
    """`observation.at`, [..., heads, queries, n]: the weight of each of n given keys for each query.

    A key that the query may not look at has 0, and so has -1, which stands for no key; in a row that is NaN every key
    has NaN. A key may be given twice. Differentiable.

    In a watched model, and in a module with a cache, queries and keys count from the start of the sequence: `keys` has
    a row for each position up to the last, or one for all; a key that a call of a watched model does not have has 0.

    Args:
        keys: whole numbers, [queries, n], [heads, queries, n] or [*batch, heads, queries, n], each size the call's or
            1; -1 for none. Read anew in each call.
        sum_heads: whether the weights are summed over the heads, [..., queries, n].

    Raises:
        TypeError: `keys` is no tensor of whole numbers, or `sum_heads` no bool.
        ValueError: `keys` has less than 2 dimensions; once it is asked of a call, sizes that do not fit it, or keys
            that it does not have.

    Example:
        >>> import torch, pellucid
        >>> x = torch.rand(8, 5, 64)  # [heads, length, head_dim]
        >>> _, seen = pellucid.observe(x, x, x, readouts=[pellucid.At(torch.tensor([[0, 3]]))])
        >>> seen.at.shape
        torch.Size([8, 5, 2])

    """

    name = "at"
    differentiable = True

    def __init__(self, keys: Tensor, sum_heads: bool = False) -> None:
        sum_heads = compiling.number(sum_heads)
        if not isinstance(keys, Tensor) or keys.dtype == torch.bool or keys.is_floating_point() or keys.is_complex():
            got = keys.dtype if isinstance(keys, Tensor) else type(keys).__name__
            raise TypeError(f"keys: At takes a tensor of whole numbers, got {got}")
        if keys.ndim < 2:
            raise ValueError(f"keys: At takes [queries, n], with heads and batch before, got {list(keys.shape)}")
        if not isinstance(sum_heads, bool):
            raise TypeError(f"sum_heads: At takes True or False, got {sum_heads!r}")
        self.expression = load(keys, _indices(keys))
        self.per_head = not sum_heads

    @classmethod
    def _made(cls, expression: Expression, per_head: bool) -> At:
        made = cls.__new__(cls)
        made.expression, made.per_head = expression, per_head
        return made

    @property
    def columns(self) -> int:
        """How many keys a query has; in a graph it may be a symbol, which is why `numbers` do not hold it."""
        return self._keys.value.shape[-1]

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The keys, a function of b, h, q and COLUMN."""
        return (self.expression,)

    @property
    def lengths(self) -> dict[str, int]:
        """How many keys a query has."""
        return {COLUMN.value: self.columns}

    @property
    def numbers(self) -> Numbers:
        """Whether heads are kept apart."""
        return (int(self.per_head),)

    @classmethod
    def again(cls, numbers: Numbers, functions: Iterator[Expression], name: str) -> At:
        """The weights of the keys that a function gives."""
        (per_head,) = numbers
        return cls._made(next(functions), bool(per_head))

    def check(self, problem: Problem) -> None:
        """Raise ValueError unless the size of the keys' tensor is the call's."""
        keys = self._keys
        wanted = (*problem.batch, problem.heads, problem.q_len)
        own = tuple(keys.value.shape[:-1])
        queries: int | str = problem.q_len
        if keys is not self.expression:  # it counts from the start of the sequence, of which the call has a part
            own, wanted, queries = own[:-1], wanted[:-1], "positions"
        if not _fits(own, wanted, len(problem.batch)):
            shape = [*problem.batch, problem.heads, queries, "n"]
            takes = f"keys: At takes {shape}, or 1 for a size (of several of the batch for the first)".replace("'", "")
            raise ValueError(f"{takes}, got {list(keys.value.shape)}")

    def check_numbers(self, problem: Problem) -> None:
        """Raise ValueError unless there is a row for each query, and the keys are those of the call."""
        self.check(problem)
        keys = self._keys
        if is_transformed(keys.value):
            raise ValueError("keys: At must look at them, and torch.func looks through them; give them as they are")
        if not torch.Size(problem.rows).numel() or not self.columns:
            return
        row = evaluate(keys.args[-2], inputs=problem.place(), dtype=problem.dtype)[0].max()
        if row >= keys.value.shape[-2]:
            raise ValueError(f"keys: At has {keys.value.shape[-2]} rows of keys, and the last query is {int(row)}")
        lowest, highest = self.keys_of(problem).aminmax()
        if lowest < -1 or highest >= problem.k_len:
            got = f"{int(lowest)} to {int(highest)}"
            raise ValueError(f"keys: At takes -1, for none, to {problem.k_len - 1}, the last of the keys; got {got}")

    def dense(self, dense: Dense) -> Tensor:
        """The dense definition."""
        keys = self._expanded(dense.tile)
        if not dense.weights.shape[-1]:
            return self._of_heads(dense.weights.new_zeros(keys.shape))
        return self._of_heads(dense.weights.gather(-1, keys.clamp(min=0)).masked_fill(keys < 0, 0.0))

    def of_tile(self, tile: Tile) -> State:
        """The scores of the keys that are in the tile, and which are keys at all."""
        keys = self._expanded(tile)
        if not tile.scores.shape[-1]:
            return tile.scores.new_full(keys.shape, -torch.inf), keys >= 0
        place, found = tile.find(keys)
        return tile.scores.gather(-1, place).masked_fill(~found, -torch.inf), keys >= 0

    def merge(self, left: State, right: State, merge: Merge) -> State:
        """Each score, from the side that has its key."""
        return left[0].maximum(right[0]), left[1] | right[1]

    def finish(self, state: State, rows: Rows) -> Tensor:
        """The scores as weights."""
        scores, named = state
        return self.of_weights(rows.whole.weights(scores), named)

    def of_weights(self, weights: Tensor, named: Tensor) -> Tensor:
        """The result, from each head's weights [*batch, heads, queries, n] and whether they are of a key at all."""
        return self._of_heads(weights.masked_fill(~named, 0.0))

    def keys_of(self, problem: Problem) -> Tensor:
        """The keys of each row of a call, which broadcast to [*batch, heads, queries, n]."""
        return self._values(problem.place(), problem.dtype)

    def score_gradient(self, gradient: Tensor, tile: Tile, weights: Tensor, state: State, rows: Rows) -> Tensor:
        """D weight j / d score k = weight j (1 if k is its key - weight k)."""
        return tile.of_weights(self._shares(gradient, state, rows), self._expanded(tile), weights)

    def sink_gradient(self, gradient: Tensor, state: State, rows: Rows) -> Tensor:
        """The sink is none of the keys."""
        return -rows.sink_weight * self._shares(gradient, state, rows).sum(-1)

    def empty(self, problem: Problem) -> Tensor:
        """A weight a key."""
        rows = problem.rows if self.per_head else (*problem.batch, problem.q_len)
        return problem.query.new_empty((*rows, self.columns), dtype=problem.dtype)

    def for_keys(self, k_len: int) -> At:
        """A key beyond is none of the call's."""
        keys = self.expression
        end = load(offset(k_len, self._keys.value.device), ())  # a constant would be compiled anew at each step
        return self._with(operation("where", operation("lt", keys, end), keys, NONE))

    def renumbered(self, change: Callable[[Expression], Expression]) -> At:
        """The same rows of keys; of keys before the call's first there are none."""
        keys = substituted(self.expression, {"q": change(INPUTS["q"])})
        first = substituted(change(INPUTS["k"]), {"k": FIRST})
        own = operation("maximum", operation("sub", keys, first), NONE)
        return self._with(operation("where", operation("lt", keys, FIRST), keys, own))

    def reading(self, change: Callable[[Any], Any]) -> At:
        """The keys of another tensor."""
        return self._with(with_tensors(self.expression, change))

    def _with(self, expression: Expression) -> At:
        return self._made(expression, self.per_head)

    @property
    def _keys(self) -> Expression:
        """The element of the keys' tensor."""
        loads = (node for node in walk(self.expression) if node.op == "load")
        return next(node for node in loads if node.args and node.args[-1] is COLUMN)

    def _values(self, place: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The keys of rows, [..., queries or 1, n]."""
        columns = torch.arange(self.columns, device=place["q"].device)
        return evaluate(self.expression, inputs=place | {COLUMN.value: columns}, dtype=dtype)[0]

    def _expanded(self, tile: Tile) -> Tensor:
        """The keys of each row of a tile, [*batch, heads, queries, n]."""
        return self._values(tile.place, tile.dtype).expand(*tile.scores.shape[:-1], self.columns)

    def _of_heads(self, weights: Tensor) -> Tensor:
        return weights if self.per_head else weights.sum(-3)

    def _shares(self, gradient: Tensor, state: State, rows: Rows) -> Tensor:
        """Each weight times its gradient, [*batch, heads, queries, n]."""
        return _weights(state, rows) * (gradient if self.per_head else gradient.unsqueeze(-3))


def _indices(keys: Tensor) -> tuple[Expression, ...]:
    """An index for each dimension of the keys' tensor; b counts the sequences of several dimensions as one."""
    *batch, heads, queries = (*(1,) * (3 - keys.ndim), *keys.shape[:-1])
    indices, stride = [COLUMN], 1
    for name, size in (("q", queries), ("h", heads)):
        indices.append(FIRST if size == 1 else INPUTS[name])
    for size in reversed(batch):
        index = operation("mod", operation("floordiv", INPUTS["b"], constant(stride)), constant(size or 1))
        indices.append(FIRST if size == 1 else index)
        stride *= max(size, 1)
    return tuple(reversed(indices[: keys.ndim]))


def _fits(own: tuple[int, ...], wanted: tuple[int, ...], batch: int) -> bool:
    """Whether each size is the call's or 1; the first `batch` sizes the call's from the first on that is not 1."""
    missing = len(wanted) - len(own)
    if missing < 0 or any(size not in (1, call) for size, call in zip(own, wanted[missing:], strict=True)):
        return False
    sequences = own[: max(0, batch - missing)]
    first = next((i for i, size in enumerate(sequences) if size != 1), len(sequences))
    return sequences[first:] == wanted[missing:][first : len(sequences)]


def _weights(state: State, rows: Rows) -> Tensor:
    scores, named = state
    return rows.whole.weights(scores).masked_fill(~named, 0.0)

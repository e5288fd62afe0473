"""Pooled and PooledMax: each row's weights, joined over bins of keys, and rows over bins of queries.

Sixteen rows go together, one in each lane: a tile of weights is turned, and a bin of any width is a run of additions.
What a bin holds so far is relative to the row's maximum, as all the row's sums are, and is multiplied by the same
correction when that grows. At the end of the chunk rows become final, and those of one bin of queries are joined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import I32, I64, POINTER, Value
from pellucid.engines.cpu.products.tiles import load_transposed, rounded, transposed
from pellucid.engines.cpu.stages.stage import Found, Reading, Sizes, Stage, one_of_a_name
from pellucid.engines.reason import Reason
from pellucid.language import INPUTS, Expression, load
from pellucid.problem import Problem
from pellucid.readouts.pooled import Bins, Pooled

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.block import Block, Task
    from pellucid.engines.cpu.kernels.forward import Forward
    from pellucid.engines.cpu.layout import Spec

SUFFIXES = ("", "_shared", "_rows", "_bins", "_memory", "_keys", "_keep", "_queries")  # of the arguments of each
RANGES = 64  # of a head's queries, each with a row of bins of its own, if there are not more bins of queries


@dataclass(frozen=True)
class PooledStage(Stage):
    """The bins of a chunk, [rows / lanes][key bins][lanes], for each readout that pools."""

    names: tuple[str, ...]
    reads_weights = True
    long = True
    in_decode = False

    @classmethod
    def together(cls, stages: Sequence[PooledStage]) -> Sequence[PooledStage]:
        """One, which turns the weights once for all."""
        return [cls(tuple(sorted({name for stage in stages for name in stage.names})))]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Where bins are, how many, and which each key and query is in."""
        return tuple(f"{name}{suffix}" for name in self.names for suffix in SUFFIXES)

    def start(self, forward: Forward, task: Task, rows: Value) -> None:
        """Nothing in any bin."""
        for name in self.names:
            end = rounded(task.rows, forward.lanes) * self._stride(forward, name)
            forward.code.clear(self._bins(forward, name, forward.code.i64(0)), end, forward.number)

    def after(self, forward: Forward, block: Block, row: Value) -> None:
        """Put the weights of a vector of rows, which lie in the tile of scores, into the bins of the tile's keys."""
        code = forward.code
        every = [self._bins(forward, name, block.row + row) for name in self.names]
        firsts = [self._place_of_key(forward, name, block.key) for name in self.names]
        for bins, first in zip(every, firsts, strict=True):
            self._correct(forward, row, bins, first)

        def keys(j: Value, *sums: Value) -> list[Value]:
            turned = self._turned(forward, row, j)
            return [
                self._add_keys(forward, name, bins, block.key + j, turned, sum_)
                for name, bins, sum_ in zip(self.names, every, sums, strict=True)
            ]

        so_far = [code.load(bins, forward.type, first) for bins, first in zip(every, firsts, strict=True)]
        code.loop(0, block.count, keys, so_far, step=forward.lanes)

    def _correct(self, forward: Forward, row: Value, bins: Value, last: Value) -> None:
        """Multiply what the bins hold, up to one, by the rows' corrections, if a maximum has grown."""
        code = forward.code
        correction = code.load(forward.scratch["correction"], forward.type, row)

        def one(i: Value) -> None:
            code.store(bins, code.load(bins, forward.type, i) * correction, i)

        with code.when(code.any(correction != 1.0)):
            code.loop(0, last + 1, one, step=forward.lanes)

    def _turned(self, forward: Forward, row: Value, j: Value) -> list[Value]:
        """The weights of some keys, each of a vector of rows."""
        tile = forward.code.at(forward.row_of_tile(row), j, forward.number)
        return load_transposed(forward.code, forward.type, tile, forward.spec.tile_stride)

    def _add_keys(
        self, forward: Forward, name: str, bins: Value, key: Value, weights: list[Value], joined: Value
    ) -> Value:
        """Join some keys' weights to the last bin's; a key that begins a bin forgets the one before.

        Every key stores what its bin holds up to it, so that none has to ask whether it is the last.
        """
        code, keep = forward.code, forward.pointer(f"{name}_keep")
        for i, weight in enumerate(weights):
            kept = code.spread(code.load(keep, forward.number, key + i), forward.lanes)
            joined = code.fma(joined, kept, weight) if name == "pooled" else code.maximum(joined * kept, weight)
            code.store(bins, joined, self._place_of_key(forward, name, key + i))
        return joined

    def finish(self, forward: Forward, task: Task) -> None:
        """Make the rows final, and join those of each bin of queries."""
        forward.code.loop(0, task.rows, lambda row: self._finish_rows(forward, task, row), step=forward.lanes)

    def _finish_rows(self, forward: Forward, task: Task, row: Value) -> None:
        code = forward.code
        maximum, total = (code.load(forward.scratch[name], forward.type, row) for name in ("maximum", "total"))
        factor = code.select(total == 0.0, forward.nothing(task.h), forward.factor_of_rows(task.h, maximum, total))
        count = code.minimum(task.rows - row, forward.lanes)
        for name in self.names:
            bins = self._bins(forward, name, row)

            def turn(first: Value, bins: Value = bins) -> None:
                square = code.at(bins, first * forward.lanes, forward.number)
                columns = [code.load(square, forward.type, i * forward.lanes) * factor for i in range(forward.lanes)]
                for i, vector in enumerate(transposed(code, columns)):
                    code.store(square, vector, i * forward.lanes)

            def join(i: Value, name: str = name, bins: Value = bins) -> None:
                self._join(forward, name, task, row + i, code.at(bins, i * forward.lanes, forward.number))

            code.loop(0, forward.argument(f"{name}_bins"), turn, step=forward.lanes)
            code.loop(0, count, join)

    def _join(self, forward: Forward, name: str, task: Task, row: Value, mine: Value) -> None:
        """Join a row's bins of keys, a vector of them in each square of lanes, to those of its bin of queries."""
        code, bins = forward.code, forward.argument(f"{name}_bins")
        result, begins = self._result(forward, name, task, row), self._begins_bin(forward, name, task.first + row)

        def some(first: Value) -> None:
            exists = code.spread((bins - first).to(I32), forward.lanes) > code.ramp(I32, forward.lanes)
            own = code.load(mine, forward.type, first * forward.lanes)
            so_far = code.select(begins, 0.0, code.masked_load(result, forward.type, exists, first))
            larger = (own > so_far) | (own != own)  # NaN stays
            joined = so_far + own if name == "pooled" else code.select(larger, own, so_far)
            code.masked_store(result, joined, exists, first)

        code.loop(0, bins, some, step=forward.lanes)

    def _result(self, forward: Forward, name: str, task: Task, row: Value) -> Value:
        """Where the bins lie that a row is joined to: apart, if the range before has begun its bin of queries."""
        code, argument, pair = forward.code, forward.argument, task.pair
        size = argument("chunks_a_range") * argument("chunk")
        number = task.first / size
        first = number * size
        own, before = (
            self._bin_of_query(forward, name, query) for query in (task.first + row, code.maximum(first - 1, 0))
        )
        shared = (first > 0) & (own == before)
        apart = pair * (argument("tasks") / argument("pairs")) + number
        place = code.select(shared, apart, pair * argument(f"{name}_rows") + own) * argument(f"{name}_bins")
        base = code.select(shared, argument(f"{name}_shared"), argument(name))
        return code.at(Value(code, code.ir.inttoptr(base.raw, POINTER)), place, forward.number)

    def _begins_bin(self, forward: Forward, name: str, query: Value) -> Value:
        before = self._bin_of_query(forward, name, forward.code.maximum(query - 1, 0))
        return (query == 0) | (self._bin_of_query(forward, name, query) != before)

    def _bin_of_query(self, forward: Forward, name: str, query: Value) -> Value:
        return forward.code.load(forward.pointer(f"{name}_queries"), I64, query)

    def _stride(self, forward: Forward, name: str) -> Value:
        """Places that a row takes: its bins of keys, up to whole vectors."""
        return rounded(forward.argument(f"{name}_bins"), forward.lanes)

    def _bins(self, forward: Forward, name: str, row: Value) -> Value:
        """Where the bins of a vector of rows of the chunk begin."""
        memory = forward.code.at(forward.memory, forward.argument(f"{name}_memory"))
        return forward.code.at(memory, row * self._stride(forward, name), forward.number)

    def _place_of_key(self, forward: Forward, name: str, key: Value) -> Value:
        """Where a key's bin lies from there."""
        return forward.code.load(forward.pointer(f"{name}_keys"), I64, key)


@dataclass(frozen=True)
class PooledReading(Reading):
    """The bins of one readout in a call."""

    divided: tuple[Bins, Bins]  # queries and keys
    lengths: tuple[int, int]

    @classmethod
    def why_not(cls, readout: Any) -> Reason | None:
        """It keeps the bins of one."""
        return one_of_a_name(readout)

    @classmethod
    def of(cls, readout: Any, problem: Problem, roots: Sequence[str]) -> PooledReading:
        """No more bins than queries and keys."""
        return cls(readout.name, readout.bins, (problem.q_len, problem.k_len))

    @property
    def bins(self) -> tuple[int, int]:
        """How many bins of queries and of keys."""
        (queries, keys), (q_len, k_len) = self.divided, self.lengths
        return queries.count(q_len), keys.count(k_len)

    @property
    def stage(self) -> PooledStage:
        """The stage of both."""
        return PooledStage((self.name,))

    @property
    def ranges(self) -> int:
        """One for each bin of queries, or more."""
        return max(RANGES, self.bins[0])

    def memory(self, queries: int, spec: Spec) -> int:
        """A number for each query and bin of keys, whole vectors."""
        return queries * -(-self.bins[1] // spec.lanes) * spec.lanes * spec.size

    def numbers(self, memory: int) -> dict[str, int]:
        """How many bins, and where those of a thread are."""
        rows, columns = self.bins
        return {f"{self.name}_bins": columns, f"{self.name}_rows": rows, f"{self.name}_memory": memory}

    def written(self, sizes: Sizes) -> dict[str, Tensor]:
        """The bins, [pairs, rows, columns], and for each range of queries what it adds to a bin that another has begun.

        These are [pairs, ranges, columns]: no two threads ever meet in one place.
        """
        rows, columns = self.bins
        pairs, ranges = math.prod(sizes.rows[:-1]), -(-self.lengths[0] // sizes.queries)
        dtype, device = sizes.dtype, sizes.device
        shared = torch.zeros(pairs, ranges if ranges > 1 else 0, columns, dtype=dtype, device=device)
        bins = torch.empty(pairs, rows, columns, dtype=dtype, device=device)
        return {self.name: bins, f"{self.name}_shared": shared}

    def tables(self, sizes: Sizes) -> dict[str, Tensor]:
        """Where each key's bin lies and whether it goes on, and each query's bin, by argument."""
        (rows, columns), (q_len, k_len) = self.divided, self.lengths
        padded = -(-k_len // KEYS) * KEYS
        bins = columns.of(torch.arange(padded, device="cpu").clamp_(max=k_len - 1), k_len)
        keep = torch.zeros(padded, dtype=sizes.dtype, device="cpu")
        torch.eq(bins[1:], bins[:-1], out=keep[1:])
        queries = rows.of(torch.arange(q_len, device="cpu"), q_len)
        return {
            f"{self.name}_keys": bins * sizes.spec.lanes,
            f"{self.name}_keep": keep,
            f"{self.name}_queries": queries,
        }

    def result(self, readout: Any, found: Found) -> Tensor:
        """The bins, what was shared added."""
        whole, shared = found.written[self.name], found.written[f"{self.name}_shared"]
        begun = (
            self.divided[0].of(torch.arange(shared.shape[1], device="cpu") * found.queries, self.lengths[0]).tolist()
        )
        for number in range(1, shared.shape[1]):
            own, part = whole[:, begun[number]], shared[:, number]
            torch.add(own, part, out=own) if self.name == Pooled.name else torch.maximum(own, part, out=own)
        result: Tensor = readout.finish(whole.unflatten(0, found.lse.shape[:-1]), found.problem)
        return result

    @property
    def carries(self) -> bool:
        """Sums do; of a largest weight nobody has asked."""
        return self.name == Pooled.name

    def of_weights(self, readout: Any, gradient: Tensor) -> Expression:
        """Its bins', divided by the queries of one."""
        queries, keys = (
            bins.of(torch.arange(length, device="cpu"), length).to(torch.int32)
            for bins, length in zip(self.divided, self.lengths, strict=True)
        )
        means = gradient / torch.bincount(queries, minlength=gradient.shape[-2])[:, None]
        bins = load(queries, (INPUTS["q"],)), load(keys, (INPUTS["k"],))
        return load(means.reshape(-1, *means.shape[-3:]), (INPUTS["b"], INPUTS["h"], *bins))

"""The stage of the forward pass that `Pooled` and `PooledMax` come from: each row's weights, joined over bins of keys.

Sixteen rows go together, one in each lane: a tile of weights is turned, and a bin of any width is a run of additions.
What a bin holds so far is relative to the row's maximum, as all the row's sums are, and is multiplied by the same
correction when that grows. At the end of the chunk rows become final, and those of one bin of queries are joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pellucid.engines.cpu.machine.builder import I32, I64, POINTER, Value
from pellucid.engines.cpu.products.tiles import load_transposed, rounded, transposed

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.forward import Forward
    from pellucid.engines.cpu.kernels.kernel import Block, Task


class Pooling:
    """The bins of a chunk, [rows / lanes][key bins][lanes], for each readout that pools."""

    def __init__(self, forward: Forward) -> None:
        self.forward, self.code, self.spec = forward, forward.code, forward.spec
        self.number, self.type, self.lanes = forward.number, forward.type, forward.lanes
        self.names = forward.spec.pools

    def start(self, task: Task) -> None:
        """Nothing in any bin."""
        for name in self.names:
            end = rounded(task.rows, self.lanes) * self._stride(name)
            self.code.clear(self._bins(name, self.code.i64(0)), end, self.number)

    def add(self, block: Block, row: Value) -> None:
        """Put the weights of a vector of rows, which lie in the tile of scores, into the bins of the tile's keys."""
        code = self.code
        every = [self._bins(name, block.row + row) for name in self.names]
        firsts = [self._place_of_key(name, block.key) for name in self.names]
        for bins, first in zip(every, firsts, strict=True):
            self._correct(row, bins, first)

        def keys(j: Value, *sums: Value) -> list[Value]:
            turned = self._turned(row, j)
            return [
                self._add_keys(name, bins, block.key + j, turned, sum_)
                for name, bins, sum_ in zip(self.names, every, sums, strict=True)
            ]

        so_far = [code.load(bins, self.type, first) for bins, first in zip(every, firsts, strict=True)]
        code.loop(0, block.count, keys, so_far, step=self.lanes)

    def _correct(self, row: Value, bins: Value, last: Value) -> None:
        """Multiply what the bins hold, up to one, by the rows' corrections, if a maximum has grown."""
        code = self.code
        correction = code.load(self.forward.scratch["correction"], self.type, row)

        def one(i: Value) -> None:
            code.store(bins, code.load(bins, self.type, i) * correction, i)

        with code.when(code.any(correction != 1.0)):
            code.loop(0, last + 1, one, step=self.lanes)

    def _turned(self, row: Value, j: Value) -> list[Value]:
        """The weights of some keys, each of a vector of rows."""
        tile = self.code.at(self.forward.row_of_tile(row), j, self.number)
        return load_transposed(self.code, self.type, tile, self.spec.tile_stride)

    def _add_keys(self, name: str, bins: Value, key: Value, weights: list[Value], joined: Value) -> Value:
        """Join some keys' weights to the last bin's; a key that begins a bin forgets the one before.

        Every key stores what its bin holds up to it, so that none has to ask whether it is the last.
        """
        code, keep = self.code, self.forward.pointer(f"{name}_keep")
        for i, weight in enumerate(weights):
            kept = code.spread(code.load(keep, self.number, key + i), self.lanes)
            joined = code.fma(joined, kept, weight) if name == "pooled" else code.maximum(joined * kept, weight)
            code.store(bins, joined, self._place_of_key(name, key + i))
        return joined

    def finish(self, task: Task) -> None:
        """Make the rows final, and join those of each bin of queries."""
        self.code.loop(0, task.rows, lambda row: self._finish_rows(task, row), step=self.lanes)

    def _finish_rows(self, task: Task, row: Value) -> None:
        code, forward = self.code, self.forward
        maximum, total = (code.load(forward.scratch[name], self.type, row) for name in ("maximum", "total"))
        factor = code.select(total == 0.0, forward.nothing(task.h), forward.factor_of_rows(task.h, maximum, total))
        count = code.minimum(task.rows - row, self.lanes)
        for name in self.names:
            bins = self._bins(name, row)

            def turn(first: Value, bins: Value = bins) -> None:
                square = code.at(bins, first * self.lanes, self.number)
                columns = [code.load(square, self.type, i * self.lanes) * factor for i in range(self.lanes)]
                for i, vector in enumerate(transposed(code, columns)):
                    code.store(square, vector, i * self.lanes)

            def join(i: Value, name: str = name, bins: Value = bins) -> None:
                self._join(name, task, row + i, code.at(bins, i * self.lanes, self.number))

            code.loop(0, forward.argument(f"{name}_bins"), turn, step=self.lanes)
            code.loop(0, count, join)

    def _join(self, name: str, task: Task, row: Value, mine: Value) -> None:
        """Join a row's bins of keys, a vector of them in each square of lanes, to those of its bin of queries."""
        code, bins = self.code, self.forward.argument(f"{name}_bins")
        result, begins = self._result(name, task, row), self._begins_bin(name, task.first + row)

        def some(first: Value) -> None:
            exists = code.spread((bins - first).to(I32), self.lanes) > code.ramp(I32, self.lanes)
            own = code.load(mine, self.type, first * self.lanes)
            so_far = code.select(begins, 0.0, code.masked_load(result, self.type, exists, first))
            larger = (own > so_far) | (own != own)  # NaN stays
            joined = so_far + own if name == "pooled" else code.select(larger, own, so_far)
            code.masked_store(result, joined, exists, first)

        code.loop(0, bins, some, step=self.lanes)

    def _result(self, name: str, task: Task, row: Value) -> Value:
        """Where the bins lie that a row is joined to: apart, if the range before has begun its bin of queries."""
        code, argument, pair = self.code, self.forward.argument, task.pair
        size = argument("chunks_a_range") * argument("chunk")
        number = task.first / size
        first = number * size
        own, before = (self._bin_of_query(name, query) for query in (task.first + row, code.maximum(first - 1, 0)))
        shared = (first > 0) & (own == before)
        apart = pair * (argument("tasks") / argument("pairs")) + number
        place = code.select(shared, apart, pair * argument(f"{name}_rows") + own) * argument(f"{name}_bins")
        base = code.select(shared, argument(f"{name}_shared"), argument(name))
        return code.at(Value(code, code.ir.inttoptr(base.raw, POINTER)), place, self.number)

    def _begins_bin(self, name: str, query: Value) -> Value:
        before = self._bin_of_query(name, self.code.maximum(query - 1, 0))
        return (query == 0) | (self._bin_of_query(name, query) != before)

    def _bin_of_query(self, name: str, query: Value) -> Value:
        return self.code.load(self.forward.pointer(f"{name}_queries"), I64, query)

    def _stride(self, name: str) -> Value:
        """Places that a row takes: its bins of keys, up to whole vectors."""
        return rounded(self.forward.argument(f"{name}_bins"), self.lanes)

    def _bins(self, name: str, row: Value) -> Value:
        """Where the bins of a vector of rows of the chunk begin."""
        memory = self.code.at(self.forward.memory, self.forward.argument(f"{name}_memory"))
        return self.code.at(memory, row * self._stride(name), self.number)

    def _place_of_key(self, name: str, key: Value) -> Value:
        """Where a key's bin lies from there."""
        return self.code.load(self.forward.pointer(f"{name}_keys"), I64, key)

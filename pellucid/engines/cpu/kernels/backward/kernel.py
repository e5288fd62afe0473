"""The backward kernel: weights again, and from them the gradients of query, key and value in five products.

A task is a tile of keys of one key head. Its keys' and values' gradients stay in scratch memory while the queries of
all heads that share it come by; the queries' are added up in memory, tile after tile (sweep.py). Queries are rows, as
in the forward pass, so that the user's functions and the mask's bounds are the same; where a product wants a tile
transposed, its numbers are read down the columns.
"""

from __future__ import annotations

from collections.abc import Callable

from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.backward.kept import Kept, PairsKept, ScaledKept
from pellucid.engines.cpu.kernels.backward.layout import BackwardSpec
from pellucid.engines.cpu.kernels.backward.sums import Sums, TileSums
from pellucid.engines.cpu.kernels.backward.sweep import KeysOuter
from pellucid.engines.cpu.kernels.block import Block, Strip, Task
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.machine.builder import F64, Code, Value
from pellucid.engines.cpu.products import tiles
from pellucid.language import Expression


class Backward(Kernel):
    """The gradients, tile of keys by tile of keys."""

    spec: BackwardSpec
    sweep: KeysOuter

    def __init__(self, code: Code, spec: BackwardSpec, program: Program) -> None:
        super().__init__(code, spec, program)
        self.slope: Expression | None = program.roots.get("slope")
        places = self.scratch | {"queries": self.scratch["gradients"], "tile": self.scratch["slopes"]}
        one = code.constant(self.number, 1.0)
        # Values take the keys' place, and upstream gradients the queries'.
        self.mirrored = self.products_type()(code, spec.mirrored, places, one)
        self.kept = self._kept_type()(self)
        self.sums = (TileSums if spec.matrix else Sums)(self)

    def _kept_type(self) -> type[Kept]:
        if self.spec.matrix:
            return ScaledKept
        return PairsKept if self.spec.dots else Kept

    def sweep_of(self) -> KeysOuter:
        """A tile of keys at a time."""
        return KeysOuter(self, packs_values=False)

    def perform(self, pair: Value, share: Value) -> None:
        """A tile of keys, and all queries of the heads that share it."""
        code, group = self.code, self.argument("group")
        first = pair * group
        self.pack_tile(self.task(first, code.i64(0)), share)

        def head(number: Value) -> None:
            self.sweep.through_queries(self.task(first + number, code.i64(0)), share, self.tile)

        code.loop(0, group, head)
        self.sums.write(pair, share)

    def pack_tile(self, task: Task, tile: Value) -> None:
        """Pack the keys both ways, and the values; no gradient yet."""
        code, spec = self.code, self.spec
        key, end = self.sweep.keys_of(tile)
        count = end - key
        stride = self.argument("key_row")
        source = code.at(task.key, key * stride, spec.storage)
        self.products.pack_keys(source, stride, count, self.scratch["keys"])
        self.mirrored.pack_values(source, stride, count, self.scratch["key_rows"])
        stride = self.argument("value_row")
        self.mirrored.pack_keys(code.at(task.value, key * stride, spec.storage), stride, count, self.scratch["values"])
        self.sums.begin()

    def pack_block(self, block: Strip) -> None:
        """Pack a block of queries and their upstream gradients, each both ways; and what their rows have in common."""
        code, spec, task = self.code, self.spec, block.task
        stride = self.argument("query_row")
        queries = code.at(task.query, block.row * stride, spec.storage)
        self.products.pack_queries(queries, stride, block.rows)
        self.mirrored.pack_values(queries, stride, block.rows, self.scratch["query_rows"])
        stride = self.argument("gradient_row")
        gradients = code.at(self.gradient_of(task), block.row * stride, spec.storage)
        self.mirrored.pack_queries(gradients, stride, block.rows)
        self.products.pack_values(gradients, stride, block.rows, self.scratch["gradient_rows"])
        stride = self.argument("output_row")
        outputs = code.at(task.output, block.row * stride, spec.storage)
        code.loop(0, block.rows, lambda row: self._keep_delta(block, row, gradients, outputs))
        self.sums.block(block)

    def gradient_of(self, task: Task) -> Value:
        """Where the upstream gradient of a head begins."""
        inner = self.argument("inner_batch")
        outer, inside = task.b / inner, task.b - (task.b / inner) * inner
        offset = outer * self.argument("gradient_batch") + inside * self.argument("gradient_inner")
        offset = offset + task.h * self.argument("gradient_head")
        return self.code.at(self.pointer("gradient"), offset, self.spec.storage)

    def _keep_delta(self, block: Strip, row: Value, gradients: Value, outputs: Value) -> None:
        """What is taken off the gradient of each of a row's weights: the sum of weight times gradient, and more."""
        code, spec = self.code, self.spec
        total = code.constant(self.type, 0.0)
        for start, length in tiles.columns(spec.value_dim, self.lanes):
            valid = tiles.first_lanes(code, self.lanes, length)
            one, other = (
                tiles.load_numbers(code, spec, source, row * self.argument(f"{name}_row") + start, self.lanes, valid)
                for name, source in (("gradient", gradients), ("output", outputs))
            )
            total = code.fma(one, other, total)
        offset = self.of_query("offset", block, row)
        code.store(self.scratch["delta"], code.reduce("add", total) - offset, self.packed_row(block, row))

    def of_query(self, name: str, block: Strip, row: Value) -> Value:
        """A number that is known of each query."""
        return self.code.load(self.pointer(name), self.number, block.task.pair * self.q_len + block.row + row)

    def packed_row(self, block: Strip, row: Value) -> Value:
        """A row's place in the packed block."""
        return block.row - self.sweep.first_row + row

    # A strip of queries beside some keys of the tile: their scores are there.

    def tile(self, block: Block, full: Value) -> None:
        """The five products' other four."""
        place = block.key - self.sweep.keys_of(self.sweep.tile)[0]  # in the tile, where the keys begin
        words = self.spec.mirrored.key_words
        values = self.code.at(self.scratch["values"], place * words, self.number)
        self.mirrored.score_tile(block.rows, values, block.count, first=self.packed_row(block, self.code.i64(0)))
        self.masked_or_not(full, lambda masked: self.weights_and_slopes(block, masked))
        self.sums.add(block, place)

    def weights_and_slopes(self, block: Block, masked: bool) -> None:
        """Turn scores into weights, and the gradients of weights into those of scores."""
        code, together = self.code, self.spec.per_word

        def rows(row: Value) -> None:
            found = [self._row(block, row + i, masked) for i in range(together)]

            def panel(j: Value) -> None:
                places = [j + v * self.lanes for v in range(self.spec.vectors)]
                self.kept.store(row, j, [[of_row(place) for place in places] for of_row in found])

            code.loop(0, block.count, panel, step=self.panel)

        code.loop(0, block.rows, rows, step=together)
        self.kept.clear_beyond(block)

    def _row(self, block: Block, row: Value, masked: bool) -> Callable[[Value], tuple[Value, Value]]:
        """What gives a vector of a row's weights and slopes at a place; of a row that does not exist they are 0."""
        code, exists = self.code, None
        if self.spec.per_word > 1:
            exists = code.spread(row < block.rows, self.lanes)
            row = code.minimum(row, block.rows - 1)
        functions, scores = self.sweep.of_row(block, row), self.row_of_tile(row)
        upstream = code.at(self.scratch["slopes"], row * self.spec.tile_stride, self.number)
        delta = code.load(self.scratch["delta"], self.number, self.packed_row(block, row))
        known = (self.of_query("maximum", block, row), self.of_query("log_total", block, row), delta)
        maximum, log_total, delta = (code.spread(number, self.lanes) for number in known)

        def at(place: Value) -> tuple[Value, Value]:
            raw = code.load(scores, self.type, place)
            score = self.modified(functions, raw, block, place, masked)
            weight = self.power(code.minimum(0.0, (score - maximum) - log_total))
            slope = weight * (code.load(upstream, self.type, place) - delta)
            if self.slope is not None:
                slope = slope * self._derivative(functions, raw, block, place)
            if exists is None:
                return weight, slope
            return code.select(exists, weight, 0.0), code.select(exists, slope, 0.0)

        return at

    def _derivative(self, functions: Values, raw: Value, block: Block, place: Value) -> Value:
        """Of score_mod, with respect to the score."""
        assert self.slope is not None
        if self.factor is not None:
            raw = raw * self.code.spread(self.factor, self.lanes)
        functions = functions.bind("k", self.sweep.keys(block, place)).bind("score", raw)
        exists = self.sweep.exists(block, place)
        return self.code.select(exists, self.code.spread(functions.value(self.slope, exists), self.lanes), 0.0)

    def natural_scale(self) -> Value:
        """What query @ key.T is multiplied by."""
        return self.argument("scale").bits(F64).to(self.number)

    def value_scale(self) -> Value:
        """What the sums of weight times upstream gradient are multiplied by."""
        return self.code.constant(self.number, 1.0)

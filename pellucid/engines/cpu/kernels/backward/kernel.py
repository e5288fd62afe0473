"""The backward kernel: weights again, and from them the gradients of query, key and value in five products.

A task is a tile of keys of one key head. Its keys' and values' gradients stay in scratch memory while the queries of
all heads that share it come by; the queries' are added up in memory, tile after tile (sweep.py). Queries are rows, as
in the forward pass, so that the user's functions and the mask's bounds are the same; where a product wants a tile
transposed, its numbers are read down the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.backward.kept import Kept, PairsKept
from pellucid.engines.cpu.kernels.backward.layout import SPARE, BackwardSpec
from pellucid.engines.cpu.kernels.backward.sweep import KeysOuter
from pellucid.engines.cpu.kernels.block import Block, Strip, Task
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import F64, Code, Value
from pellucid.engines.cpu.products import tiles
from pellucid.engines.cpu.products.tiles import Products
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
        self.kept: Kept = PairsKept(self) if spec.dots else Kept(self)

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
        self.finish(pair, share)

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
        for name, width in (("d_keys", spec.head_width), ("d_values", spec.value_width)):
            code.clear(self.scratch[name], code.i64((KEYS + SPARE) * width), self.number)

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
        code.store(self.scratch["delta"], code.reduce("add", total) - offset, self._packed_row(block, row))

    def of_query(self, name: str, block: Strip, row: Value) -> Value:
        """A number that is known of each query."""
        return self.code.load(self.pointer(name), self.number, block.task.pair * self.q_len + block.row + row)

    def _packed_row(self, block: Strip, row: Value) -> Value:
        """A row's place in the packed block."""
        return block.row - self.sweep.first_row + row

    # A strip of queries beside some keys of the tile: their scores are there.

    def tile(self, block: Block, full: Value) -> None:
        """The five products' other four."""
        place = block.key - self.sweep.keys_of(self.sweep.tile)[0]  # in the tile, where the keys begin
        words = self.spec.mirrored.key_words
        values = self.code.at(self.scratch["values"], place * words, self.number)
        self.mirrored.score_tile(block.rows, values, block.count, first=self._packed_row(block, self.code.i64(0)))
        self.masked_or_not(full, lambda masked: self.weights_and_slopes(block, masked))
        self.to_keys(block, place, "d_values", "gradient_rows", self.products, self.kept.weights_down)
        self.to_keys(block, place, "d_keys", "query_rows", self.mirrored, self.kept.slopes_down)
        self.to_queries(block, place)

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
        delta = code.load(self.scratch["delta"], self.number, self._packed_row(block, row))
        known = (self.of_query("maximum", block, row), self.of_query("log_total", block, row), delta)
        maximum, log_total, delta = (code.spread(number, self.lanes) for number in known)

        def at(place: Value) -> tuple[Value, Value]:
            raw = code.load(scores, self.type, place)
            score = self.modified(functions, raw, block, place, masked)
            weight = self.power(code.minimum((score - maximum) - log_total, 0.0))
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

    def to_keys(
        self, block: Block, place: Value, name: str, right: str, products: Products, down: Callable[[Value], Value]
    ) -> None:
        """Add a product over the queries to the gradients of the tile's keys, or values.

        Args:
            block: the queries, and keys.
            place: the first of these keys in the tile.
            name: of the sums, by key, in the scratch memory.
            right: of the right operand there, by query.
            products: whose values are as wide as the right operand.
            down: where the left operand's column for a key begins, counted from the first of these keys.

        """
        code, spec = self.code, self.spec
        width = products.spec.value_width
        sums = code.at(self.scratch[name], place * width, self.number)
        first = self._packed_row(block, code.i64(0)) / spec.per_word
        rows = code.at(self.scratch[right], first * width, self.number)
        length = tiles.rounded(tiles.rounded(block.rows, spec.per_word) / spec.per_word, products.unroll)

        def columns(column: Value, vectors: int) -> None:
            height = spec.target.tile_rows(vectors)
            operand = code.at(rows, column, self.number)

            def keys(key: Value) -> None:
                left = [down(key + r) for r in range(height)]
                found = products.product(
                    self._zeros(height, vectors), length, left, operand, width, left_stride=spec.tile_stride
                )
                for r, parts in enumerate(found):
                    self._add(sums, (key + r) * width + column, parts)

            code.loop(0, block.count, keys, step=height)

        products.over_columns(columns)

    def to_queries(self, block: Block, place: Value) -> None:
        """Add slopes @ key * scale to the queries' gradients."""
        code, spec, width = self.code, self.spec, self.spec.head_width
        first = (block.task.pair * self.q_len + block.row) * width
        target = code.at(self.pointer("d_query"), first, self.number)
        keys = code.at(self.scratch["key_rows"], place / spec.per_word * width, self.number)
        scale = code.spread(self.natural_scale(), self.lanes)
        length = self.mirrored.weight_words(block.used)

        def columns(column: Value, vectors: int) -> None:
            height = spec.target.tile_rows(vectors)
            operand = code.at(keys, column, self.number)

            def rows(row: Value) -> None:
                left = [self.kept.slopes_across(row + r) for r in range(height)]
                found = self.mirrored.product(self._zeros(height, vectors), length, left, operand, width)
                for r, parts in enumerate(found):
                    with code.when(row + r < block.rows):
                        self._add(target, (row + r) * width + column, [part * scale for part in parts])

            code.loop(0, block.rows, rows, step=height)

        self.mirrored.over_columns(columns)

    def natural_scale(self) -> Value:
        """What query @ key.T is multiplied by."""
        return self.argument("scale").bits(F64).to(self.number)

    def _zeros(self, rows: int, vectors: int) -> list[list[Value]]:
        return [[self.code.constant(self.type, 0.0)] * vectors] * rows

    def _add(self, target: Value, place: Value, vectors: list[Value]) -> None:
        """Add vectors to what lies one after another from a place on."""
        for v, own in enumerate(vectors):
            at = place + v * self.lanes
            self.code.store(target, self.code.load(target, self.type, at) + own, at)

    def finish(self, pair: Value, tile: Value) -> None:
        """Write the tile's gradients of keys and values."""
        key, end = self.sweep.keys_of(tile)
        own, one = self.natural_scale(), self.code.constant(self.number, 1.0)
        self._write("d_key", "d_keys", self.spec.head_dim, pair * self.k_len + key, end - key, own)
        self._write("d_value", "d_values", self.spec.value_dim, pair * self.k_len + key, end - key, one)

    def _write(self, name: str, sums: str, dim: int, first: Value, count: Value, scale: Value) -> None:
        code, lanes = self.code, self.lanes
        spec = replace(self.spec, partial=self.spec.summed)
        width = -(-dim // lanes) * lanes
        target, scales = code.at(self.pointer(name), first * dim, spec.output), code.spread(scale, lanes)

        def key(i: Value) -> None:
            for start, length in tiles.columns(dim, lanes):
                numbers = code.load(self.scratch[sums], self.type, i * width + start) * scales
                valid = tiles.first_lanes(code, lanes, length)
                tiles.store_numbers(code, spec, target, numbers, i * dim + start, valid)

        code.loop(0, count, key)

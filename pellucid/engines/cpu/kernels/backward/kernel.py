"""The backward kernel: weights again, and from them the gradients of query, key and value in five products.

A task is a tile of keys of one key head. Its keys' and values' gradients stay in scratch memory while the queries of
all heads that share it come by; the queries' are added up in memory, tile after tile (sweep.py). Queries are rows, as
in the forward pass, so that the user's functions and the mask's bounds are the same; where a product wants a tile
transposed, its numbers are read down the columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.backward.captured import Captured, Row
from pellucid.engines.cpu.kernels.backward.kept import Kept, PairsKept, ScaledKept
from pellucid.engines.cpu.kernels.backward.layout import BackwardSpec
from pellucid.engines.cpu.kernels.backward.sums import Sums, TileSums
from pellucid.engines.cpu.kernels.backward.sweep import KeysOuter
from pellucid.engines.cpu.kernels.block import Block, Strip, Task
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import F64, Code, Value
from pellucid.engines.cpu.products import tiles
from pellucid.engines.cpu.stages.gradient import GradientStage, Weights
from pellucid.language import Expression

AtPlace = Callable[[Value], tuple[Value, Value]]


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
        self.captured = Captured(self)

    def _kept_type(self) -> type[Kept]:
        if self.spec.matrix:
            return ScaledKept
        return PairsKept if self.spec.dots else Kept

    def sweep_of(self) -> KeysOuter:
        """A tile of keys at a time."""
        return KeysOuter(self, packs_values=False)

    def perform(self, pair: Value, share: Value) -> None:
        """A tile of keys, or what has a copy of captured tensors' gradients for itself.

        That is some tiles of some pairs, pair by pair, tile by tile. A task waits for earlier tiles of a pair alone
        (sweep.py): they are its own, already done, or of tasks with lower numbers, which were all taken before it. The
        lowest that is not done waits for nobody, so all end.
        """
        if not self.spec.captures:
            self.tile_of_keys(pair, share)
            return
        splits = self.argument("splits_of_heads")
        part = pair / splits
        self.captured.begin(part, share)
        batches = self._part(part, "batches_a_task", self.argument("batch_size"))
        heads = self._part(pair - part * splits, "heads_a_task", self.argument("key_heads"))
        tiles = self._part(share, "tiles_a_task", (self.k_len + (KEYS - 1)) / KEYS)

        def tiles_of(b: Value, head: Value) -> None:
            pair = b * self.argument("key_heads") + head
            self.code.loop(*tiles, lambda tile: self.tile_of_keys(pair, tile))

        self.code.loop(*batches, lambda b: self.code.loop(*heads, lambda head: tiles_of(b, head)))

    def _part(self, number: Value, each: str, whole: Value) -> tuple[Value, Value]:
        """Where a part of so many begins, and ends."""
        size = self.argument(each)
        return number * size, self.code.minimum(number * size + size, whole)

    def tile_of_keys(self, pair: Value, share: Value) -> None:
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
        self.sums.begin(count)

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
            both = [self._row(block, row + i, masked) for i in range(together)]
            found = [of_row for of_row, _ in both]

            def panel(j: Value) -> None:
                places = [j + v * self.lanes for v in range(self.spec.vectors)]
                self.kept.store(row, j, [[of_row(place) for place in places] for of_row in found])

            code.loop(0, block.count, panel, step=self.panel)
            for _, captured in both:
                captured.end()

        code.loop(0, block.rows, rows, step=together)
        self.kept.clear_beyond(block)

    def _row(self, block: Block, row: Value, masked: bool) -> tuple[AtPlace, Row]:
        """What gives a vector of a row's weights and slopes at a place, and what captured tensors get of it meanwhile.

        Of a row that does not exist they are 0.
        """
        code, exists = self.code, None
        if self.spec.per_word > 1:
            exists = code.spread(row < block.rows, self.lanes)
            row = code.minimum(row, block.rows - 1)
        functions, scores = self.sweep.of_row(block, row), self.row_of_tile(row)
        captured = self.captured.of_row(functions, block.key, exists)
        upstream = code.at(self.scratch["slopes"], row * self.spec.tile_stride, self.number)
        delta = code.load(self.scratch["delta"], self.number, self.packed_row(block, row))
        known = (self.of_query("maximum", block, row), self.of_query("log_total", block, row), delta)
        maximum, log_total, delta = (code.spread(number, self.lanes) for number in known)
        readouts = [(stage, stage.known(self, block, row)) for stage in self.spec.stages]
        dropped = self._dropped(block, row)

        def at(place: Value) -> tuple[Value, Value]:
            raw = code.load(scores, self.type, place)
            score = self.modified(functions, raw, block, place, masked)
            logarithm = code.minimum(0.0, (score - maximum) - log_total)
            weight = self.power(logarithm)
            weights = Weights(self, functions, weight, logarithm, block, place, masked)
            kept, gradient = dropped(place, weight, code.load(upstream, self.type, place))
            slope = self._slope(weights, readouts, gradient, delta)
            if exists is not None:
                weight, kept, slope = (code.select(exists, vector, 0.0) for vector in (weight, kept, slope))
            if self.slope is None and not captured.adders:
                return kept, slope
            valid = self.sweep.exists(block, place) if masked else None
            bound, allowed = self._bound(functions, raw, block, place), score != -math.inf
            weights.weight, sources = weight, {"score": slope}
            for stage, of_stage in readouts:
                sources |= stage.of_functions(weights, of_stage)
            captured.add(bound, sources, allowed, place, valid)
            if self.slope is None:
                return kept, slope
            derivative = code.spread(bound.value(self.slope, valid), self.lanes)
            return kept, code.select(allowed, slope * derivative, 0.0)

        return at, captured

    def _slope(
        self, weights: Weights, readouts: Sequence[tuple[GradientStage, Any]], gradient: Value, delta: Value
    ) -> Value:
        """The gradients of some scores, given those that come of the output of their weights."""
        for stage, known in readouts:
            gradient = stage.upstream(weights, known, gradient)
        slope = weights.weight * (gradient - delta)
        for stage, known in readouts:
            slope = stage.slope(weights, known, slope)
        return slope

    def _dropped(self, block: Block, row: Value) -> Callable[[Value, Value, Value], tuple[Value, Value]]:
        """What gives a vector of weights as values were averaged with them, and its gradient, from a place on.

        The weights kept are not scaled; it is done to what values' gradients come to.
        """
        if self.dropout is None:
            return lambda place, weight, gradient: (weight, gradient)
        dropout, code = self.dropout, self.code
        known, scale = dropout.of_row(block, row), code.spread(dropout.scale(), self.lanes)

        def at(place: Value, weight: Value, gradient: Value) -> tuple[Value, Value]:
            kept = dropout.kept(known, place)
            return code.select(kept, weight, 0.0), code.select(kept, gradient * scale, 0.0)

        return at

    def _bound(self, functions: Values, raw: Value, block: Block, place: Value) -> Values:
        """The user's functions at some keys."""
        if self.factor is not None:
            raw = raw * self.code.spread(self.factor, self.lanes)
        return functions.bind("k", self.sweep.keys(block, place)).bind("score", raw)

    def natural_scale(self) -> Value:
        """What query @ key.T is multiplied by."""
        return self.argument("scale").bits(F64).to(self.number)

    def value_scale(self) -> Value:
        """What the sums of weight times upstream gradient are multiplied by."""
        return self.code.constant(self.number, 1.0) if self.dropout is None else self.dropout.scale()

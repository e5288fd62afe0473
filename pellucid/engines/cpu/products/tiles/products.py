"""The two matrix products of attention in register tiles, and how their operands are packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine.builder import Code, Value, element_of, vector
from pellucid.engines.cpu.products.tiles.exchanges import transposed
from pellucid.engines.cpu.products.tiles.numbers import load_numbers
from pellucid.engines.cpu.products.tiles.rows import pack_rows, rounded, zero_rows

UNROLL = 2
# What is done beside a register block of scores, told its first row, its rows, its first column and its columns.
Beside = Callable[[Value, int, Value, int], None]


class Products:
    """The two products in the precision of the computation, and how their operands lie.

    Keys are packed in panels, [panel][head_dim][keys of a panel], values row by row. Neither is read beyond its tensor.

    Args:
        code: the function being written.
        spec: what it is compiled for.
        scratch: the address of each part of the thread's scratch memory, see `Spec.scratch`.
        scale: what scores are multiplied by, a scalar of `spec.number`.

    """

    unroll = UNROLL  # words of a row of weights are filled up with zeros to a multiple of it

    def __init__(self, code: Code, spec: Spec, scratch: dict[str, Value], scale: Value) -> None:
        self.code, self.spec, self.scratch, self.scale = code, spec, scratch, scale
        self.word = vector(spec.number, spec.lanes)

    def pack_queries(self, source: Value, stride: Value, rows: Value) -> None:
        """Copy a block of queries, scaled; rows that do not exist are zeros."""
        code, spec, target = self.code, self.spec, self.scratch["queries"]
        scales = code.spread(self.scale, spec.lanes)
        pack_rows(code, spec, source, stride, spec.head_dim, rows, target, spec.head_dim, scales)
        zero_rows(code, spec, target, rows, code.i64(spec.block), spec.head_dim)

    def pack_values(self, source: Value, stride: Value, count: Value, target: Value) -> None:
        """Copy a tile's values, and zeros up to what the product reads.

        Args:
            source: the address of the tile's first value, in the tensor.
            stride: elements from one value to the next, a 64-bit integer of the kernel.
            count: how many values, one too.
            target: the address in scratch memory that they are packed at.

        """
        spec = self.spec
        pack_rows(self.code, spec, source, stride, spec.value_dim, count, target, spec.value_width)
        zero_rows(self.code, spec, target, count, rounded(count, self.unroll), spec.value_width)

    def pack_keys(self, source: Value, stride: Value, count: Value, target: Value) -> None:
        """Transpose a tile's keys into panels; keys that do not exist are zeros.

        Args:
            source: the address of the tile's first key, in the tensor.
            stride: elements from one key to the next, a 64-bit integer of the kernel.
            count: how many keys, one too.
            target: the address in scratch memory that they are packed at.

        """
        code, spec = self.code, self.spec
        lanes = spec.lanes

        def group(g: Value) -> None:
            first, column = g * lanes, self.columns_of(target, g)
            with code.either(first + lanes <= count) as (whole, ragged):
                with whole:
                    self._transpose(code.at(source, first * stride, spec.storage), stride, column)
                with ragged:
                    self._copy_ragged(source, stride, first, count, column)

        code.loop(0, self.groups(count), group)

    def groups(self, count: Value) -> Value:
        """Vectors of keys that a tile's panels hold."""
        return rounded(count, self.spec.panel) / self.spec.lanes

    def columns_of(self, keys: Value, group: Value) -> Value:
        """Where a vector of keys begins in a packed tile."""
        panel = group / self.spec.vectors
        place = panel * (self.spec.panel * self.spec.key_words) + (group - panel * self.spec.vectors) * self.spec.lanes
        return self.code.at(keys, place, self.spec.number)

    def _transpose(self, source: Value, stride: Value, column: Value) -> None:
        """One vector's worth of keys, all of head_dim: blocks of lanes x lanes turned in registers."""
        code, lanes, panel = self.code, self.spec.lanes, self.spec.panel
        whole = self.spec.head_dim // self.spec.per_word // lanes * lanes

        def block(word: Value) -> None:
            rows = [self.load_words(source, stride * i, word) for i in range(lanes)]
            for i, turned in enumerate(transposed(code, rows)):
                code.store(column, turned, (word + i) * panel)

        code.loop(0, whole, block, step=lanes)
        for i in range(lanes):

            def one(word: Value, i: int = i) -> None:
                code.store(column, self.load_word(source, stride * i, word), word * panel + i)

            code.loop(whole, self.spec.words, one)
        zero = code.constant(element_of(self.word), 0)
        for word in range(self.spec.words, self.spec.key_words):
            code.store(column, code.spread(zero, lanes), word * panel)

    def _copy_ragged(self, source: Value, stride: Value, first: Value, count: Value, column: Value) -> None:
        code, spec = self.code, self.spec

        def key(i: Value) -> None:
            exists = first + i < count

            def one(word: Value) -> None:
                number = code.variable(code.constant(element_of(self.word), 0))
                with code.when(exists & (word < spec.words)):
                    number.set(self.load_word(source, (first + i) * stride, word))
                code.store(column, number.get(), word * spec.panel + i)

            code.loop(0, spec.key_words, one)

        code.loop(0, spec.lanes, key)

    def load_words(self, source: Value, row: Value, word: Value) -> Value:
        """A vector of a row's words."""
        return load_numbers(self.code, self.spec, source, row + word, self.spec.lanes)

    def load_word(self, source: Value, row: Value, word: Value) -> Value:
        """One of a row's words."""
        return load_numbers(self.code, self.spec, source, row + word, 1)

    def multiply_add(self, factor: Value, operand: Value, total: Value) -> Value:
        """factor * operand + total, word by word."""
        return self.code.fma(factor, operand, total)

    def begin(self) -> None:
        """What a thread does before its first task."""

    def end(self) -> None:
        """What a thread does after its last task."""

    @property
    def factor(self) -> Value | None:
        """What the scores of a tile are still to be multiplied by; None if nothing is left to do."""
        return None

    def score_tile(
        self, rows: Value, keys: Value, count: Value, beside: Beside | None = None, first: Value | int = 0
    ) -> None:
        """query @ key.T of packed queries, from the first on, and a tile of packed keys, into the tile of scores.

        Args:
            rows: how many queries, a 64-bit integer of the kernel; whole register tiles are computed.
            keys: the address in scratch memory where the tile's packed keys begin.
            count: how many keys, a 64-bit integer; whole panels are computed.
            beside: called where each register tile of scores is written, to put something beside it.
            first: which of the packed queries goes to row 0 of the tile of scores.

        """
        code, spec = self.code, self.spec
        height = spec.target.tile_rows(spec.vectors)
        start = [[code.constant(vector(spec.number, spec.lanes), 0.0)] * spec.vectors] * height

        def panel(p: Value) -> None:
            right = code.at(keys, p * (spec.panel * spec.key_words), spec.number)

            def block(row: Value) -> None:
                if beside is not None:
                    beside(row, height, p * spec.panel, spec.panel)
                left = self.query_rows(row + first, rows + first, height)
                sums = self.product(start, spec.key_words, left, right, spec.panel)
                for i, parts in enumerate(sums):
                    for v, part in enumerate(parts):
                        offset = (row + i) * spec.tile_stride + p * spec.panel + v * spec.lanes
                        code.store(self.scratch["tile"], part, offset)

            code.loop(0, rows, block, step=height)

        code.loop(0, (count + (spec.panel - 1)) / spec.panel, panel)

    def query_rows(self, row: Value, rows: Value, height: int) -> list[Value]:
        """Where some queries of the block, which has `rows`, begin."""
        width = self.spec.key_words
        return [self.code.at(self.scratch["queries"], (row + r) * width, self.spec.number) for r in range(height)]

    def store_weights(self, row: Value, weights: Sequence[Value], place: Value) -> None:
        """Keep some vectors of weights for `weigh`, one after another from a place in the row."""
        for v, weight in enumerate(weights):
            self.code.store(self.scratch["tile"], weight, row * self.spec.tile_stride + place + v * self.spec.lanes)

    def weights(self, row: Value) -> tuple[Value, int]:
        """Where a row's weights begin, and how far it is to the next row's, in words."""
        stride = self.spec.tile_stride
        return self.code.at(self.scratch["tile"], row * stride, self.spec.number), stride

    def weight_words(self, count: Value) -> Value:
        """Words of a row of `count` weights, as many as `weigh` reads."""
        return rounded(count, self.unroll)

    def weigh(self, rows: Value, output: Value, values: Value, count: Value) -> None:
        """output = output * correction + weights @ value, for a block of rows.

        Args:
            rows: how many rows of weights, a 64-bit integer of the kernel; whole register tiles are computed.
            output: the address in scratch memory of the sums so far, `value_width` numbers a row.
            values: the address there of the tile's packed values.
            count: how many weights of a row, and values, a 64-bit integer.

        """
        self.over_columns(lambda column, vectors: self._weigh_columns(rows, output, values, count, column, vectors))

    def over_columns(self, use: Callable[..., None]) -> None:
        """Run `use(column, vectors=…)` for all columns of values, a few vectors of them at a time: a register tile's.

        What it writes is compiled once for each width, of which there are two where they cannot be the same.
        """
        vectors, lanes = self.spec.value_width // self.spec.lanes, self.spec.lanes
        count = -(-vectors // self.spec.target.tile_vectors)
        narrow, wider = divmod(vectors, count)
        middle = wider * (narrow + 1)
        for start, stop, width in ((0, middle, narrow + 1), (middle, vectors, narrow)):
            self.code.loop(start * lanes, stop * lanes, partial(use, vectors=width), step=width * lanes)

    def _weigh_columns(
        self, rows: Value, output: Value, values: Value, count: Value, column: Value, vectors: int
    ) -> None:
        code, spec = self.code, self.spec
        height, type_ = spec.target.tile_rows(vectors), vector(spec.number, spec.lanes)
        # From zero: a tile's sum is rounded to its own size, not to that of the sum over all keys.
        start = [[code.constant(type_, 0.0)] * vectors] * height

        def block(row: Value) -> None:
            first, stride = self.weights(row)
            left = [code.at(first, stride * r, spec.number) for r in range(height)]
            right = code.at(values, column, spec.number)
            sums = self.product(start, self.weight_words(count), left, right, spec.value_width)
            for r, parts in enumerate(sums):
                correction = code.spread(code.load(self.scratch["correction"], spec.number, row + r), spec.lanes)
                for v, part in enumerate(parts):
                    place = (row + r) * spec.value_width + (column + v * spec.lanes)
                    code.store(output, code.fma(code.load(output, type_, place), correction, part), place)

        code.loop(0, rows, block, step=height)

    def product(
        self,
        start: list[list[Value]],
        length: Value | int,
        left: Sequence[Value],
        right: Value,
        right_stride: Value | int,
        unroll: int = UNROLL,
        left_stride: int = 1,
    ) -> list[list[Value]]:
        """start[row][v] + sum over i of left[row][i * left_stride] * right[i * right_stride + v * lanes], in words.

        The register tile of both products: a few rows times a few vectors stay in registers all the way.

        Args:
            start: what the sums begin with, a vector each.
            length: words of a row of `left`: a number, or a 64-bit integer of the kernel.
            left: the address of each row.
            right: the address of the first vector.
            right_stride: words from one row of `right` to the next.
            unroll: words in one turn of the loop, of which `length` is a multiple; 1 if it is a number that is not.
            left_stride: words from one word of a row to the next: of a matrix that lies transposed, its row's length.

        Returns:
            The sums, [row][v].

        """
        code, lanes = self.code, self.spec.lanes
        rows, vectors = len(start), len(start[0])
        unroll = 1 if isinstance(length, int) and length % unroll else unroll

        def step(i: Value, *flat: Value) -> list[Value]:
            sums = list(flat)
            for u in range(unroll):
                operands = [code.load(right, self.word, (i + u) * right_stride + v * lanes) for v in range(vectors)]
                for row in range(rows):
                    factor = code.load(left[row], element_of(self.word), (i + u) * left_stride)
                    factor = code.spread(factor, lanes)
                    for v in range(vectors):
                        place = row * vectors + v
                        sums[place] = self.multiply_add(factor, operands[v], sums[place])
            return sums

        flat = code.loop(0, length, step, [total for row in start for total in row], step=unroll)
        return [flat[row * vectors : (row + 1) * vectors] for row in range(rows)]

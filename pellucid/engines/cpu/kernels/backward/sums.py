"""The three products that end in gradients: those of values and keys, kept for a tile of keys, and those of queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pellucid.engines.cpu.kernels.backward.layout import QUERY_WORDS, SPARE, BackwardSpec
from pellucid.engines.cpu.kernels.block import Block, Strip
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import I32, Value, vector
from pellucid.engines.cpu.products import tiles
from pellucid.engines.cpu.products.amx import SIDE, Matrix, Operand
from pellucid.engines.cpu.products.tiles import Products
from pellucid.language import TRUE, Expression

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.backward.kernel import Backward


class Sums:
    """In register tiles: the left operand of what is summed over queries is read down its columns."""

    def __init__(self, kernel: Backward) -> None:
        self.kernel, self.code, self.spec, self.scratch = kernel, kernel.code, kernel.spec, kernel.scratch
        self.lanes, self.type, self.number = kernel.lanes, kernel.type, kernel.number

    def begin(self, count: Value) -> None:
        """No gradient yet of so many keys and values."""
        for name, width in (("d_keys", self.spec.head_width), ("d_values", self.spec.value_width)):
            self.code.clear(self.scratch[name], (count + SPARE) * width, self.number)

    def block(self, block: Strip) -> None:
        """A block of queries was packed."""

    def add(self, block: Block, place: Value) -> None:
        """Add what a strip of queries and some keys of the tile come to.

        Args:
            block: the queries, and keys.
            place: the first of these keys in the tile.

        """
        kernel = self.kernel
        self._to_keys(block, place, "d_values", "gradient_rows", kernel.products, kernel.kept.weights_down)
        self._to_keys(block, place, "d_keys", "query_rows", kernel.mirrored, kernel.kept.slopes_down)
        self._to_queries(block, place)

    def _to_keys(
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
        first = self.kernel.packed_row(block, code.i64(0)) / spec.per_word
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

    def _to_queries(self, block: Block, place: Value) -> None:
        """Add slopes @ key * scale to the queries' gradients."""
        code, spec, width = self.code, self.spec, self.spec.head_width
        products, target, keys = self.kernel.mirrored, self._of_queries(block), self._key_rows(place)
        scale = code.spread(self.kernel.natural_scale(), self.lanes)
        length = products.weight_words(block.used)

        def columns(column: Value, vectors: int) -> None:
            height = spec.target.tile_rows(vectors)
            operand = code.at(keys, column, self.number)

            def rows(row: Value) -> None:
                left = [self.kernel.kept.slopes_across(row + r) for r in range(height)]
                found = products.product(self._zeros(height, vectors), length, left, operand, width)
                for r, parts in enumerate(found):
                    with code.when(row + r < block.rows):
                        self._to_query(target, (row + r) * width + column, [part * scale for part in parts])

            code.loop(0, block.rows, rows, step=height)

        products.over_columns(columns)

    def _to_query(self, target: Value, place: Value, vectors: list[Value]) -> None:
        """Add to a query's gradient, or put it there, if nobody has and every query looks at the first tile."""
        if not starts_anew(self.kernel.mask, self.spec):
            self._add(target, place, vectors)
            return
        first = self.code.spread(self.kernel.sweep.tile == 0, self.lanes)
        for v, own in enumerate(vectors):
            at = place + v * self.lanes
            so_far = self.code.load(target, self.type, at)
            self.code.store(target, self.code.select(first, own, so_far + own), at)

    def _of_queries(self, block: Block) -> Value:
        """Where the gradients of a strip's queries begin, `head_width` numbers each."""
        rows = tiles.rounded(self.kernel.q_len, self.spec.query_step)
        first = (block.task.pair * rows + block.row) * self.spec.head_width
        return self.code.at(self.kernel.pointer("d_query"), first, self.number)

    def _key_rows(self, place: Value) -> Value:
        """Where the packed rows of the tile's keys begin, from a key on."""
        return self.code.at(self.scratch["key_rows"], place / self.spec.per_word * self.spec.head_width, self.number)

    def _zeros(self, rows: int, vectors: int) -> list[list[Value]]:
        return [[self.code.constant(self.type, 0.0)] * vectors] * rows

    def _add(self, target: Value, place: Value, vectors: list[Value]) -> None:
        """Add vectors to what lies one after another from a place on."""
        for v, own in enumerate(vectors):
            at = place + v * self.lanes
            self.code.store(target, self.code.load(target, self.type, at) + own, at)

    def write(self, pair: Value, tile: Value) -> None:
        """Write the tile's gradients of keys and values."""
        key, end = self.kernel.sweep.keys_of(tile)
        first, count = pair * self.kernel.k_len + key, end - key
        self._write("d_key", "d_keys", self.spec.head_dim, first, count, self.key_scale())
        self._write("d_value", "d_values", self.spec.value_dim, first, count, self.kernel.value_scale())

    def key_scale(self) -> Value:
        """What the sums of slope times query are multiplied by."""
        return self.kernel.natural_scale()

    def _write(self, name: str, sums: str, dim: int, first: Value, count: Value, scale: Value) -> None:
        """Write the gradients of some keys, or values.

        Args:
            name: of the argument that says where.
            sums: of the part of the scratch memory where they are.
            dim: of each.
            first: index of the first, in [shares, k_len].
            count: how many.
            scale: what they are multiplied by.

        """
        code = self.code
        width = -(-dim // self.lanes) * self.lanes

        def key(i: Value) -> None:
            for start, length in tiles.columns(dim, self.lanes):
                numbers = code.load(self.scratch[sums], self.type, i * width + start)
                self._write_some(name, numbers, scale, (first + i) * dim + start, length)

        code.loop(0, count, key)

    def _write_some(self, name: str, numbers: Value, scale: Value, place: Value, length: int) -> None:
        """Write so many of a vector of gradients, each multiplied, from a place on."""
        code, spec = self.code, replace(self.spec, partial=self.spec.summed)
        numbers = numbers * code.spread(scale, self.lanes)
        valid = tiles.first_lanes(code, self.lanes, length)
        tiles.store_numbers(code, spec, self.kernel.pointer(name), numbers, place, valid)


def starts_anew(mask: Expression, spec: BackwardSpec) -> bool:
    """Whether the first tile of keys puts the queries' gradients where the others add to them."""
    return mask is TRUE and not spec.matrix


class TileSums(Sums):
    """On matrix tiles: what is summed over queries is kept transposed, a row for each dimension.

    So weights and slopes, whose pairs of queries lie in words, are right operands as they are; the left ones are turned
    once a block.
    """

    def begin(self, count: Value) -> None:
        """No gradient yet of the tile's keys and values, a row for each dimension."""
        for name, rows in (("d_keys", self.spec.head_rows), ("d_values", self.spec.value_rows)):
            self.code.clear(self.scratch[name], self.code.i64((KEYS + SPARE) * rows), self.number)

    def block(self, block: Strip) -> None:
        """Turn the packed pairs of queries, and of their upstream gradients."""
        self._turn("query_rows", "query_columns", self.spec.head_width, block)
        self._turn("gradient_rows", "gradient_columns", self.spec.value_width, block)

    def _turn(self, rows: str, columns: str, width: int, block: Strip) -> None:
        code, word = self.code, vector(I32, SIDE)
        words = tiles.rounded(tiles.rounded(block.rows, 2) / 2, SIDE)

        def some(first: Value) -> None:
            for start in range(0, width, SIDE):
                source = code.at(self.scratch[rows], first * width + start, I32)
                turned = tiles.load_transposed(code, self.type, source, width)
                for i, column in enumerate(turned):
                    place = (start + i) * QUERY_WORDS + first
                    code.store(self.scratch[columns], column.bits(word), place)

        code.loop(0, words, some, step=SIDE)

    def add(self, block: Block, place: Value) -> None:
        """Add what a strip of queries and some keys of the tile come to."""
        kernel = self.kernel
        products = kernel.mirrored
        assert isinstance(products, Matrix)
        self._down(block, place, "d_values", "gradient_columns", self.spec.value_rows, kernel.kept.weights_down)
        self._down(block, place, "d_keys", "query_columns", self.spec.head_rows, kernel.kept.slopes_down)
        products.accumulate(block.rows, self._of_queries(block), self._key_rows(place), block.used)

    def _down(
        self, block: Block, place: Value, name: str, left: str, rows: int, down: Callable[[Value], Value]
    ) -> None:
        """Add a product over the queries: see `Sums._to_keys`."""
        code, products, stride = self.code, self.kernel.products, self.spec.tile_stride
        assert isinstance(products, Matrix)
        first = self.kernel.packed_row(block, code.i64(0)) / 2
        words = tiles.rounded(tiles.rounded(block.rows, 2) / 2, SIDE)

        def keys(key: Value) -> None:
            right = Operand(down(key), stride, "weights")

            def dimensions(row: Value) -> None:
                operand = code.at(self.scratch[left], row * QUERY_WORDS + first, self.number)
                target = code.at(self.scratch[name], row * stride + place + key, self.number)
                products.add_to(target, stride, words, Operand(operand, QUERY_WORDS, "queries"), right)

            code.loop(0, rows, dimensions, step=2 * SIDE)

        code.loop(0, block.count, keys, step=2 * SIDE)

    def key_scale(self) -> Value:
        """The slopes have it in them."""
        return self.code.constant(self.number, 1.0)

    def _write(self, name: str, sums: str, dim: int, first: Value, count: Value, scale: Value) -> None:
        """Turn the gradients of some keys, or values, and write them: see `Sums._write`."""
        code, stride = self.code, self.spec.tile_stride

        def keys(key: Value) -> None:
            for start, length in tiles.columns(dim, SIDE):
                source = code.at(self.scratch[sums], start * stride + key, self.number)
                for i, column in enumerate(tiles.load_transposed(code, self.type, source, stride)):
                    with code.when(key + i < count):
                        self._write_some(name, column, scale, (first + key + i) * dim + start, length)

        code.loop(0, count, keys, step=SIDE)

"""The two products of decode, which read keys and values where they lie, and ask for those that come next.

Words are those of `Kernel.products`: numbers, or pairs of bfloat16. Rows are few: the queries of the heads that share a
key head. A key or value that is loaded serves up to four of them.
"""

from __future__ import annotations

from pellucid.engines.cpu import amx, tiles
from pellucid.engines.cpu.builder import I16, I32, Value, element_of, vector
from pellucid.engines.cpu.kernel import Kernel
from pellucid.engines.cpu.layout import KEYS

ROWS_AT_ONCE = 4


class Rows:
    """Products by vectors of words."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.code, self.spec = kernel, kernel.code, kernel.spec
        self.products, self.scratch, self.lanes = kernel.products, kernel.scratch, kernel.lanes
        self.rows = self.spec.group * self.spec.queries
        self.elements = self.lanes * self.spec.pair  # of a vector of words
        self.width = -(-self.spec.head_dim // self.elements) * self.lanes  # words of a packed query

    def pack_queries(self, query: Value) -> None:
        """Copy the queries of every head of the group, filled up to whole vectors."""
        code, spec = self.code, self.spec
        for member in range(spec.group):
            target = code.at(self.scratch["queries"], member * spec.queries * self.width, spec.number)

            def row(i: Value, member: int = member, target: Value = target) -> None:
                source = code.at(query, self.query_offset(member, i), spec.storage)
                for start, length in tiles.columns(spec.head_dim, self.elements):
                    words = self._scaled(self._load(source, code.i64(start), length))
                    code.store(target, words, i * self.width + start // spec.pair)

            code.loop(0, spec.queries, row)

    def query_offset(self, member: int, row: Value) -> Value:
        """Where a query of a head of the group begins, in elements."""
        return self.kernel.argument("query_head") * member + row * self.kernel.argument("query_row")

    def _scaled(self, words: Value) -> Value:
        """Words of a query times the scale; pairs are only negated, for scaling would round them again."""
        code, scale = self.code, self.kernel.scale()
        if self.spec.pair == 1:
            return words * code.spread(scale, self.lanes)
        return words ^ self.sign()

    def sign(self) -> Value:
        """What negates both elements of a pair if the scale is negative."""
        return self.code.select(self.kernel.scale() < 0.0, self.code.constant(I32, -0x7FFF8000), 0)

    def _load(self, source: Value, offset: Value, length: int) -> Value:
        """A vector of words, of which the first `length` elements exist; the others are 0 and not read."""
        code, valid = self.code, tiles.first_lanes(self.code, self.elements, length)
        if self.spec.pair == 1:
            return tiles.load_numbers(code, self.spec, source, offset, self.lanes, valid)
        return self._elements(source, offset, valid).bits(self.products.word)

    def _elements(self, source: Value, offset: Value, valid: Value | None) -> Value:
        code, type_ = self.code, vector(I16, self.elements)
        return code.load(source, type_, offset) if valid is None else code.masked_load(source, type_, valid, offset)

    def score(self, keys: Value, values: Value, count: Value) -> None:
        """query @ key.T into the tile of scores, while the values that will be read next are fetched."""
        code, spec, at_once = self.code, self.spec, min(ROWS_AT_ONCE, max(1, self.lanes // 4))

        def group(j: Value) -> None:
            stride = self.kernel.argument("value_row")
            source = code.at(values, j * stride, spec.storage)
            self.kernel.fetch(source, stride, code.i64(self.lanes), spec.value_dim)
            done = 0
            while done < self.rows:
                step = next(n for n in (4, 2, 1) if n <= min(at_once, self.rows - done))
                stop = done + (self.rows - done) // step * step
                code.loop(done, stop, lambda r, step=step: self._some_scores(keys, count, j, r, step), step=step)
                done = stop

        code.loop(0, count, group, step=self.lanes)

    def _some_scores(self, keys: Value, count: Value, j: Value, row: Value, rows: int) -> None:
        """Scores of a few rows and a vector of keys, a few keys at a time: each key that is loaded serves all rows.

        Each lane's sum is kept in a register of its own until the end.
        """
        code, spec, at_once = self.code, self.spec, self.lanes // rows
        stride, type_ = self.kernel.argument("key_row"), self.products.word
        query = code.at(self.scratch["queries"], row * self.width, spec.number)
        tile = code.at(self.scratch["tile"], row * spec.tile_stride, spec.number)

        def some(key: Value) -> None:
            # Past the last key, the last is read again; its lanes are masked later.
            offsets = [code.minimum(key + i, count - 1) * stride for i in range(at_once)]
            sums = [[code.constant(self.kernel.type, 0.0)] * at_once for _ in range(rows)]
            for start, length in tiles.columns(spec.head_dim, self.elements):
                loaded = [self._load(keys, offset + start, length) for offset in offsets]
                for r in range(rows):
                    factor = code.load(query, type_, r * self.width + start // spec.pair)
                    pairs = zip(loaded, sums[r], strict=True)
                    sums[r] = [self.products.multiply_add(factor, words, sum_) for words, sum_ in pairs]
            flat = tiles.across_rows(code, [sum_ for of_row in sums for sum_ in of_row], Value.__add__)
            for r in range(rows):
                own = flat if rows == 1 else code.shuffle(flat, flat, range(r * at_once, (r + 1) * at_once))
                code.store(tile, own, key + r * spec.tile_stride)

        code.loop(j, j + self.lanes, some, step=at_once)

    def weigh(self, values: Value, next_keys: Value, count: Value) -> None:
        """output = output * correction + weights @ value, while the next tile's keys are fetched."""
        columns = tiles.columns(self.spec.value_dim, self.elements)
        at_once = max(1, self.spec.target.tile_vectors // self.spec.pair)
        for begin in range(0, len(columns), at_once):
            for first in range(0, self.rows, ROWS_AT_ONCE):
                rows = range(first, min(first + ROWS_AT_ONCE, self.rows))
                self._weigh_some(values, next_keys, count, rows, columns[begin : begin + at_once])

    def _weigh_some(
        self, values: Value, next_keys: Value, count: Value, rows: range, columns: list[tuple[int, int]]
    ) -> None:
        code, spec, pair = self.code, self.spec, self.spec.pair
        fetching = not rows.start and not columns[0][0]
        weights = [self.products.weights(code.i64(row))[0] for row in rows]

        def step(word: Value, *flat: Value) -> list[Value]:
            sums, key = list(flat), word * pair
            if fetching:
                stride = self.kernel.argument("key_row")
                source = code.at(next_keys, key * stride, spec.storage)
                self.kernel.fetch(source, stride, code.i64(pair), spec.head_dim)
            operands = [o for start, length in columns for o in self._operands(values, key, count, start, length)]
            for r, row in enumerate(weights):
                weight = code.spread(code.load(row, element_of(self.products.word), word), self.lanes)
                for v, operand in enumerate(operands):
                    place = r * len(operands) + v
                    sums[place] = self.products.multiply_add(weight, operand, sums[place])
            return sums

        # From zero: a tile's sum is rounded to its own size, not to that of the sum over all keys.
        zeros = [code.constant(self.kernel.type, 0.0)] * (len(rows) * len(columns) * pair)
        sums = code.loop(0, tiles.rounded(count, pair) / pair, step, zeros)
        for r, row in enumerate(rows):
            correction = code.spread(code.load(self.scratch["correction"], spec.number, row), self.lanes)
            for c, (start, _) in enumerate(columns):
                place = (r * len(columns) + c) * pair
                for v, part in enumerate(self._in_order(sums[place : place + pair])):
                    column = row * spec.value_width + start + v * self.lanes
                    if start + v * self.lanes < spec.value_width:
                        before = code.load(self.scratch["output"], self.kernel.type, column)
                        code.store(self.scratch["output"], code.fma(before, correction, part), column)

    def _operands(self, values: Value, key: Value, count: Value, start: int, length: int) -> list[Value]:
        """A vector of a value's columns; or of a pair of them, interleaved in the order that costs least."""
        code, stride = self.code, self.kernel.argument("value_row")
        first = key * stride + start
        if self.spec.pair == 1:
            return [self._load(values, first, length)]
        valid = tiles.first_lanes(code, self.elements, length)
        exists = code.spread(key + 1 < count, self.elements)
        one = self._elements(values, first, valid)
        other = self._elements(values, first + stride, exists if valid is None else exists & valid)
        return [code.shuffle(one, other, self._halves(half)).bits(self.products.word) for half in (0, 1)]

    def _halves(self, half: int) -> list[int]:
        """The lower or upper halves of the eight elements that 16 bytes hold, of two vectors, interleaved."""
        places = [eight + 4 * half + i for eight in range(0, self.elements, 8) for i in range(4)]
        return [lane for place in places for lane in (place, self.elements + place)]

    def _in_order(self, sums: list[Value]) -> list[Value]:
        """The sums of `_operands`, in the columns' order."""
        if self.spec.pair == 1:
            return sums
        places = [four + half * self.lanes + i for four in range(0, self.lanes, 4) for half in (0, 1) for i in range(4)]
        return [self.code.shuffle(*sums, places[: self.lanes]), self.code.shuffle(*sums, places[self.lanes :])]


class Tiles(Rows):
    """Scores on matrix tiles: keys as the left operand just as they lie, 16 at a time, all rows as the right one."""

    products: amx.Tiles

    def pack_queries(self, query: Value) -> None:
        """Copy the queries of every head of the group, word by word, side by side."""
        code, spec, target = self.code, self.spec, self.scratch["queries"]
        for member in range(spec.group):

            def row(i: Value, member: int = member) -> None:
                place = self.query_offset(member, i)

                def word(w: Value) -> None:
                    bits = self.products.load_word(query, place, w) ^ self.sign()
                    code.store(target, bits, w * amx.SIDE + i + member * spec.queries)

                code.loop(0, spec.words, word)

            code.loop(0, spec.queries, row)

    def score(self, keys: Value, values: Value, count: Value) -> None:
        """query @ key.T into the tile of scores, while the values that will be read next are fetched."""
        code, spec, size = self.code, self.spec, self.spec.storage_size
        key_row, value_row = self.kernel.argument("key_row"), self.kernel.argument("value_row")
        ragged, product = self.scratch["keys"], self.scratch["values"]

        def some(j: Value) -> None:
            self.kernel.fetch(code.at(values, j * value_row, spec.storage), value_row, code.i64(amx.SIDE), spec.value_dim)
            first, whole = code.at(keys, j * key_row, spec.storage), j + amx.SIDE <= count
            with code.when(~whole):
                self._copy(first, key_row, count - j, ragged)
            left = code.select(whole, first, ragged)
            stride = code.select(whole, key_row, spec.head_dim) * size
            self.products.multiply(left, stride, self.scratch["queries"], spec.words, product)
            loaded = [code.load(product, self.kernel.type, i * amx.SIDE) for i in range(amx.SIDE)]
            for row, scores in enumerate(tiles.transposed(code, loaded)[: self.rows]):
                code.store(self.scratch["tile"], scores, j + row * spec.tile_stride)

        code.loop(0, count, some, step=amx.SIDE)

    def _copy(self, source: Value, stride: Value, count: Value, target: Value) -> None:
        """Fewer keys than a tile's rows, where the rows that do not exist may be read; their scores are masked later."""

        def key(i: Value) -> None:
            for start, length in tiles.columns(self.spec.head_dim, self.elements):
                words = self._load(source, i * stride + start, length)
                self.code.store(target, words, i * self.spec.words + start // self.spec.pair)

        self.code.loop(0, count, key)


assert KEYS % amx.SIDE == 0

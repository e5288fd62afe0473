"""The two products of decode, which read keys and values where they lie, and ask for those that come next.

Rows are few: the queries of the heads that share a key head. What is read serves as many of them as possible, in small
steps that hold both loads and arithmetic: memory rests wherever a processor finds no load for a few hundred
instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.machine.builder import I16, I32, Value, vector
from pellucid.engines.cpu.products import amx, tiles

ROWS_AT_ONCE = 4
COLUMNS_AT_ONCE, BYTES_AT_ONCE = 16, 512  # of a key at most
KEYS_AT_ONCE = amx.DEPTH  # of the weighted sum
ROWS_A_TURN = 2  # of values that are asked for beside a panel of weights
# Of the eight elements in each 16 bytes of two vectors the lower four, or the upper, interleaved: what costs least.
HALVES = [
    [lane for eight in range(0, 32, 8) for i in range(4) for lane in (eight + start + i, 32 + eight + start + i)]
    for start in (0, 4)
]
# How sums over such columns are put in order.
ORDER = [16 * half + four + i for four in range(0, 16, 4) for half in (0, 1) for i in range(4)]


class Stripe(NamedTuple):
    """Some columns of some values."""

    values: Value
    first: Value  # of the values
    stop: Value
    begin: Value  # of the columns
    columns: list[tuple[int, int]]  # where vectors begin from there, and how many of their elements exist


class Rows:
    """Products of numbers, vector by vector: a key or value that is loaded serves up to four rows."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.code, self.spec, self.products = kernel, kernel.code, kernel.spec, kernel.products
        self.scratch, self.lanes, self.type = kernel.scratch, kernel.lanes, kernel.type
        self.key_row, self.value_row = kernel.argument("key_row"), kernel.argument("value_row")
        self.rows = self.spec.group * self.spec.queries
        self.elements = self.lanes * self.spec.per_word  # of a key or value in a vector
        self.columns = tiles.columns(self.spec.value_dim, self.elements)

    @property
    def query_width(self) -> int:
        """Words of a packed query, filled up to whole vectors."""
        return -(-self.spec.words // self.lanes) * self.lanes

    def pack_queries(self, query: Value) -> None:
        """Copy the queries of every head of the group, scaled."""
        code, spec = self.code, self.spec
        stride, count = self.kernel.argument("query_row"), code.i64(spec.queries)
        scales = code.spread(self.kernel.scale(), self.lanes)

        def head(member: Value) -> None:
            source = code.at(query, member * self.kernel.argument("query_head"), spec.storage)
            target = code.at(self.scratch["queries"], member * (spec.queries * self.query_width), spec.number)
            tiles.pack_rows(code, spec, source, stride, spec.head_dim, count, target, self.query_width, scales)

        code.loop(0, spec.group, head)

    def score(self, keys: Value, count: Value) -> None:
        """query @ key.T into the tile of scores, a vector of keys at a time."""
        code, at_once = self.code, min(ROWS_AT_ONCE, max(1, self.lanes // 4))

        def group(j: Value) -> None:
            done = 0
            while done < self.rows:
                step = next(n for n in (4, 2, 1) if n <= min(at_once, self.rows - done))
                stop = done + (self.rows - done) // step * step
                some = (step, not done)
                code.loop(done, stop, lambda r, some=some: self._some_scores(keys, count, j, r, *some), step=step)
                done = stop

        code.loop(0, count, group, step=self.lanes)

    def _some_scores(self, keys: Value, count: Value, j: Value, row: Value, rows: int, first: bool) -> None:
        """Scores of a few rows and a vector of keys, a few keys at a time: each key that is loaded serves all rows.

        Each lane's sum is kept in a register of its own until the end.
        """
        code, spec, at_once = self.code, self.spec, self.lanes // rows
        query = code.at(self.scratch["queries"], row * self.query_width, spec.number)
        tile = code.at(self.scratch["tile"], row * spec.tile_stride, spec.number)

        def some(key: Value) -> None:
            # Past the last key, the last is read again; its lanes are masked later.
            offsets = [code.minimum(key + i, count - 1) * self.key_row for i in range(at_once)]
            later = [self._place_of_later(key + i, self.key_row, spec.head_dim) for i in range(at_once)]

            def some_columns(begin: Value, count: int, *flat: Value) -> list[Value]:
                sums, words, columns = list(flat), begin / spec.per_word, tiles.columns(count, self.elements)
                factors = [
                    [
                        code.load(query, self.products.word, words + (place + c * self.lanes))
                        for c in range(len(columns))
                    ]
                    for place in range(0, rows * self.query_width, self.query_width)
                ]
                for i, offset in enumerate(offsets):
                    for c, (start, length) in enumerate(columns):
                        factor = self._words_of_key(keys, offset + begin, start, length)
                        if first:
                            self._fetch(keys, later[i] + begin, start)
                        for r in range(rows):
                            place = r * at_once + i
                            sums[place] = self.products.multiply_add(factors[r][c], factor, sums[place])
                return sums

            zeros = [code.constant(self.type, 0.0)] * (rows * at_once)
            most = min(COLUMNS_AT_ONCE * self.elements, BYTES_AT_ONCE // spec.storage_size)
            sums = tiles.in_steps(code, spec.head_dim, most, some_columns, zeros)
            flat = tiles.across_rows(code, sums, Value.__add__)
            for r in range(rows):
                own = flat if rows == 1 else code.shuffle(flat, flat, range(r * at_once, (r + 1) * at_once))
                code.store(tile, own, key + r * spec.tile_stride)

        code.loop(j, j + self.lanes, some, step=at_once)

    def _words_of_key(self, keys: Value, offset: Value, start: int, length: int) -> Value:
        """A vector of a key, as it is multiplied."""
        valid = tiles.first_lanes(self.code, self.lanes, length)
        return tiles.load_numbers(self.code, self.spec, keys, offset + start, self.lanes, valid)

    def weigh(self, values: Value, count: Value) -> None:
        """output = output * correction + weights @ value, a few values at a time through all rows and columns.

        A tile's sum starts from zero: it is rounded to its own size, not to that of the sum over all keys.
        """
        code, spec, output = self.code, self.spec, self.scratch["output"]
        self.clear_sums()
        code.loop(0, count, lambda key: self.weigh_some(values, key, count), step=KEYS_AT_ONCE)

        def add(row: Value) -> None:
            correction = code.spread(code.load(self.scratch["correction"], spec.number, row), self.lanes)
            for v, sum_ in enumerate(self.sums(row)):
                place = row * spec.value_width + v * self.lanes
                code.store(output, code.fma(code.load(output, self.type, place), correction, sum_), place)

        code.loop(0, self.rows, add)

    def clear_sums(self) -> None:
        """Start with zeros."""
        count = self.code.i64(self.rows * self.spec.value_width)
        self.code.clear(self.scratch["values"], count, self.spec.number)

    def sums(self, row: Value) -> list[Value]:
        """A row's sums over the keys of a tile."""
        places = (row * self.spec.value_width + start for start in range(0, self.spec.value_width, self.lanes))
        return [self.code.load(self.scratch["values"], self.type, place) for place in places]

    def weigh_some(self, values: Value, key: Value, count: Value) -> None:
        """Add a few values, weighted, to the sums."""
        sums = self.spec.target.registers // (2 * self.spec.per_word)  # as many vectors each as a word has elements
        at_once = min(len(self.columns), sums)  # whole rows, as memory is read fastest in its order
        rows_at_once = min(ROWS_AT_ONCE, sums // at_once, self.rows)
        stop = self.code.minimum(key + KEYS_AT_ONCE, count)

        def some_columns(begin: Value, count: int) -> None:
            stripe = Stripe(values, key, stop, begin, tiles.columns(count, self.elements))
            whole = self.rows // rows_at_once * rows_at_once
            self._weigh_stripe(stripe, self.code.i64(0), rows_at_once, first=True)
            others = partial(self._weigh_stripe, stripe, rows=rows_at_once)
            self.code.loop(rows_at_once, whole, others, step=rows_at_once)
            if whole < self.rows:
                self._weigh_stripe(stripe, self.code.i64(whole), self.rows - whole)

        tiles.in_steps(self.code, self.spec.value_dim, at_once * self.elements, some_columns)

    def _weigh_stripe(self, stripe: Stripe, row: Value, rows: int, first: bool = False) -> None:
        code, spec, kept = self.code, self.spec, self.scratch["values"]

        def step(key: Value, *flat: Value) -> list[Value]:
            sums, own = list(flat), key * self.value_row + stripe.begin
            later = self._place_of_later(key, self.value_row, spec.value_dim) + stripe.begin
            places = (key + (row + r) * spec.tile_stride for r in range(rows))
            weights = [code.spread(code.load(self.scratch["tile"], spec.number, at), self.lanes) for at in places]
            for v, (start, length) in enumerate(stripe.columns):
                valid = tiles.first_lanes(code, self.lanes, length)
                value = tiles.load_numbers(code, spec, stripe.values, own + start, self.lanes, valid)
                if first:
                    self._fetch(stripe.values, later, start)
                for r, weight in enumerate(weights):
                    place = r * len(stripe.columns) + v
                    sums[place] = code.fma(weight, value, sums[place])
            return sums

        firsts = [(row + r) * spec.value_width + stripe.begin for r in range(rows)]
        places = [place + start for place in firsts for start, _ in stripe.columns]
        sums = code.loop(stripe.first, stripe.stop, step, [code.load(kept, self.type, place) for place in places])
        for place, sum_ in zip(places, sums, strict=True):
            code.store(kept, sum_, place)

    def fetch_values(self, values: Value, turn: Value) -> None:
        """Ask for a few rows of values beyond those that were asked for with the last tile's."""
        for row in range(ROWS_A_TURN):
            later = self._place_of_later(turn * ROWS_A_TURN + row, self.value_row, self.spec.value_dim)
            for start in range(0, self.spec.value_dim, self.lanes):
                self._fetch(values, later, start)

    def _place_of_later(self, row: Value, stride: Value, width: int) -> Value:
        """Where a row begins that will be read soon; it may lie beyond the last."""
        return (row + max(1, self.spec.target.requests.ahead // (width * self.spec.storage_size))) * stride

    def _fetch(self, source: Value, row: Value, start: int) -> None:
        """Ask for a row from a column on; both are counted from multiples of 64 bytes."""
        if start * self.spec.storage_size % 64 == 0:
            self.code.prefetch(source, self.spec.storage, row + start, cache=self.spec.target.requests.cache)


class Dots(Rows):
    """Products of pairs of bfloat16 by the processor's own dot product, which multiplies 32 elements at a time.

    Values are interleaved two by two in registers. Their sums lie in the order of HALVES until a tile is done.
    """

    def pack_queries(self, query: Value) -> None:
        """Copy the queries of every head of the group. Scaling would round them: they are negated if it is negative."""
        code, spec, width = self.code, self.spec, 2 * self.query_width
        sign = code.spread(code.select(self.kernel.scale() < 0.0, code.constant(I16, -0x8000), 0), amx.DEPTH)

        def row(place: Value, number: Value) -> None:
            for start, length in tiles.columns(spec.head_dim, amx.DEPTH):
                bits = self._pairs(query, place + start, tiles.first_lanes(code, amx.DEPTH, length)) ^ sign
                code.store(self.scratch["queries"], bits, number * width + start)

        self._over_queries(row)

    def _words_of_key(self, keys: Value, offset: Value, start: int, length: int) -> Value:
        """A vector of pairs of a key."""
        pairs = self._pairs(keys, offset + start, tiles.first_lanes(self.code, amx.DEPTH, length))
        return pairs.bits(self.products.word)

    def _pairs(self, source: Value, offset: Value, valid: Value | None) -> Value:
        """32 elements, where not `valid` 0 and not read."""
        code, type_ = self.code, vector(I16, amx.DEPTH)
        return code.load(source, type_, offset) if valid is None else code.masked_load(source, type_, valid, offset)

    def clear_sums(self) -> None:
        """Start with zeros."""
        count = self.code.i64(self.rows * len(self.columns) * amx.DEPTH)
        self.code.clear(self.scratch["values"], count, self.spec.number)

    def _over_queries(self, use: Callable[[Value, Value], None]) -> None:
        """Run `use(place, row)` for the queries of every head of the group: where each lies, and its number."""
        code, spec = self.code, self.spec

        def head(member: Value) -> None:
            first, stride = member * self.kernel.argument("query_head"), self.kernel.argument("query_row")
            code.loop(0, spec.queries, lambda i: use(first + i * stride, member * spec.queries + i))

        code.loop(0, spec.group, head)

    def sums(self, row: Value) -> list[Value]:
        """A row's sums over the keys of a tile, in the columns' order."""
        vectors: list[Value] = []
        for c in range(len(self.columns)):
            place = (row * len(self.columns) + c) * amx.DEPTH
            halves = (place, place + self.lanes)
            lower, upper = (self.code.load(self.scratch["values"], self.type, half) for half in halves)
            vectors += (self.code.shuffle(lower, upper, ORDER[i : i + self.lanes]) for i in (0, self.lanes))
        return vectors[: self.spec.value_width // self.lanes]

    def _weigh_stripe(self, stripe: Stripe, row: Value, rows: int, first: bool = False) -> None:
        code, spec, kept = self.code, self.spec, self.scratch["values"]

        def step(key: Value, *flat: Value) -> list[Value]:
            sums, two = list(flat), (key, key + 1)
            lasting = code.spread(two[1] < stripe.stop, amx.DEPTH)
            own = [k * self.value_row + stripe.begin for k in two]
            later = [self._place_of_later(k, self.value_row, spec.value_dim) + stripe.begin for k in two]
            weights = []
            for r in range(rows):
                of_row, _ = self.products.weights(row + r)
                weights.append(code.spread(code.load(of_row, I32, key / 2), self.lanes))
            for c, (start, length) in enumerate(stripe.columns):
                valid = tiles.first_lanes(code, amx.DEPTH, length)
                one = self._pairs(stripe.values, own[0] + start, valid)
                other = self._pairs(stripe.values, own[1] + start, lasting if valid is None else lasting & valid)
                if first:
                    for row_ahead in later:
                        self._fetch(stripe.values, row_ahead, start)
                for half in (0, 1):
                    words = code.shuffle(one, other, HALVES[half]).bits(self.products.word)
                    for r, weight in enumerate(weights):
                        place = (r * len(stripe.columns) + c) * 2 + half
                        sums[place] = self.products.multiply_add(weight, words, sums[place])
            return sums

        width, halves = len(self.columns) * amx.DEPTH, (0, self.lanes)
        firsts = [(row + r) * width + stripe.begin for r in range(rows)]
        places = [place + (start + half) for place in firsts for start, _ in stripe.columns for half in halves]
        sums = code.loop(
            stripe.first, stripe.stop, step, [code.load(kept, self.type, place) for place in places], step=2
        )
        for place, sum_ in zip(places, sums, strict=True):
            code.store(kept, sum_, place)


class Matrix(Dots):
    """Products on matrix tiles, of pairs of bfloat16, for all rows at once. What is multiplied is copied before.

    Keys could be multiplied where they lie, if head_dim is a multiple of 32, but that is no faster. Rows of the tiles
    beyond the queries hold anything, and so do rows of the products, which nobody reads.
    """

    products: amx.Matrix

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        assert isinstance(kernel.products, amx.Matrix)
        self.products = kernel.products

    def pack_queries(self, query: Value) -> None:
        """Copy the queries of every head of the group side by side, word by word."""
        code, spec, target = self.code, self.spec, self.scratch["queries"]
        # Scaling would round them again: they are only negated if the scale is negative.
        sign = code.select(self.kernel.scale() < 0.0, code.constant(I32, -0x7FFF8000), 0)

        def row(place: Value, number: Value) -> None:
            def word(w: Value) -> None:
                code.store(target, self.products.load_word(query, place, w) ^ sign, w * amx.SIDE + number)

            code.loop(0, spec.words, word)

        self._over_queries(row)
        tiles.zero_rows(code, spec, target, code.i64(spec.words), code.i64(spec.key_words), amx.SIDE)

    def score(self, keys: Value, count: Value) -> None:
        """query @ key.T into the tile of scores, 16 keys at a time, the next 16 being copied meanwhile."""
        code, spec = self.code, self.spec

        def copied(j: Value) -> Value:
            return code.at(self.scratch["keys"], (j & amx.SIDE) * spec.key_words, spec.number)

        def some(j: Value) -> None:
            self._copy(keys, j + amx.SIDE, count, copied(j + amx.SIDE))
            product = code.at(self.scratch["values"], (j & amx.SIDE) * amx.SIDE, spec.number)
            self.products.store_product(copied(j), self.scratch["queries"], product)
            turned = tiles.transposed(code, [code.load(product, self.type, i * amx.SIDE) for i in range(amx.SIDE)])
            for row, scores in enumerate(turned[: self.rows]):
                code.store(self.scratch["tile"], scores, j + row * spec.tile_stride)

        self._copy(keys, code.i64(0), count, copied(code.i64(0)))
        code.loop(0, count, some, step=amx.SIDE)

    def _copy(self, keys: Value, first: Value, count: Value, target: Value) -> None:
        """Copy 16 keys, each filled up with zeros. Scores of those that do not exist are masked later."""
        code, spec = self.code, self.spec

        def key(j: Value) -> None:
            own, later = j * self.key_row, self._place_of_later(j, self.key_row, spec.head_dim)
            for start, length in tiles.columns(spec.head_dim, amx.DEPTH):
                pairs = self._pairs(keys, own + start, tiles.first_lanes(code, amx.DEPTH, length))
                self._fetch(keys, later, start)
                code.store(target, pairs, (j - first) * (2 * spec.key_words) + start)

        code.loop(first, code.minimum(first + amx.SIDE, count), key)

    def weigh(self, values: Value, count: Value) -> None:
        """output = output * correction + weights @ value, 32 values at a time, the next 32 being copied meanwhile."""
        for group in self._groups():
            self._interleave(values, self.code.i64(0), count, group)
        super().weigh(values, count)

    def _groups(self) -> list[range]:
        """Which of `columns` are multiplied together: their sums fill four tiles, two for each."""
        return [range(begin, min(begin + 2, len(self.columns))) for begin in range(0, len(self.columns), 2)]

    def clear_sums(self) -> None:
        """Start with zeros."""
        blocks = self.code.i64(2 * len(self.columns))
        tiles.zero_rows(self.code, self.spec, self.scratch["values"], self.code.i64(0), blocks, amx.SIDE**2)

    def sums(self, row: Value) -> list[Value]:
        """A row's sums over the keys of a tile, in the columns' order."""
        vectors: list[Value] = []
        for c in range(len(self.columns)):
            places = (row + (2 * c + half) * amx.SIDE for half in (0, 1))
            lower, upper = (self.code.load(self.scratch["values"], self.type, place * amx.SIDE) for place in places)
            vectors += (self.code.shuffle(lower, upper, ORDER[i : i + amx.SIDE]) for i in (0, amx.SIDE))
        return vectors[: self.spec.value_width // self.lanes]

    def weigh_some(self, values: Value, key: Value, count: Value) -> None:
        """Add 32 values, weighted, to the sums."""
        code, spec = self.code, self.spec
        weights, stride = self.products.weights(code.i64(0))
        for group in self._groups():
            sums = code.at(self.scratch["values"], group.start * (2 * amx.SIDE**2), spec.number)
            left = code.at(weights, key / 2, spec.number)
            self.products.add_product(left, stride, self._interleaved(group.start), sums, 2 * len(group))
            self._interleave(values, key + amx.DEPTH, count, group)

    def _interleaved(self, column: int) -> Value:
        """Where 32 columns of 32 values are copied to: two blocks of 16 words of 16 pairs of values."""
        return self.code.at(self.scratch["keys"], column * (2 * amx.SIDE**2), self.spec.number)

    def _interleave(self, values: Value, first: Value, count: Value, group: Sequence[int]) -> None:
        """Copy some columns of 32 values, two and two interleaved; those that do not exist are zeros."""
        code = self.code

        def pair(p: Value) -> None:
            for column in group:
                start, length = self.columns[column]
                both = []
                for key in (first + p * 2, first + p * 2 + 1):
                    later = self._place_of_later(key, self.value_row, self.spec.value_dim)
                    valid, exists = tiles.first_lanes(code, amx.DEPTH, length), code.spread(key < count, amx.DEPTH)
                    mask = exists if valid is None else exists & valid
                    both.append(self._pairs(values, key * self.value_row + start, mask))
                    self._fetch(values, later, start)
                for half in (0, 1):
                    words = code.shuffle(both[0], both[1], HALVES[half])
                    code.store(self._interleaved(column), words, (p + half * amx.SIDE) * amx.DEPTH)

        code.loop(0, amx.SIDE, pair)

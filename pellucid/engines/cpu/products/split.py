"""The two products of float32 and float16 on matrix tiles that multiply bfloat16, with nothing of the precision lost.

A bfloat16 has 8 significant bits: float32's 24 are the sum of three, float16's 11 of two (Henry, Tang and Heinecke
2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations"). A product of two
sums is the sum of the products of their parts. Of nine those three are left out that are smaller than a rounding error.
A part lies in memory as `Dots` packs bfloat16, one part after another, with a difference that saves instructions: the
numbers of a word are not neighbours but 16 apart.

Where there are infinite numbers, or all are so small that their parts vanish, the numbers themselves are multiplied,
put together from their parts, which keep what is not below 2 ** -133.
"""

from __future__ import annotations

from collections.abc import Sequence

from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import F32, I1, I32, Value, vector
from pellucid.engines.cpu.products.amx import DEPTH, SIDE, Matrix, Operand
from pellucid.engines.cpu.products.tiles import Beside, first_lanes, in_steps, load_numbers, transposed, zero_rows

HALF, UPPER, MAGNITUDE = 0x8000, -0x10000, 0x7FFFFFFF  # bits of a float32, of which the upper half is a bfloat16
INFINITE = 0x7F800000
TOO_LARGE = 0x7F7F8000  # is infinite if rounded to bfloat16
TOO_SMALL = 0x12800000  # 2 ** -90: what is 2 ** 36 times smaller than that is 0 in the products


class Split(Matrix):
    """Products on matrix tiles of numbers that are sums of bfloat16."""

    # Numbers and their parts. A part is the upper half of 32 bits, whatever the lower half is.

    def parts(self, numbers: Value, *, any_number: bool) -> list[Value]:
        """A vector's parts, the largest first.

        Each is the nearest to what is left, which may be infinite, if this is to be done for `any_number`; else it is
        what is left cut off, which is less exact by a bit and saves instructions.
        """
        code, found, rest = self.code, [], numbers
        for _ in range(self.spec.split - 1):
            bits = rest.bits(vector(I32, rest.lanes))
            if any_number:
                bits = bits + code.select((bits & MAGNITUDE) < TOO_LARGE, code.constant(bits.type, HALF), 0)
            found.append(bits)
            rest = rest - (bits & UPPER).bits(rest.type)
            if any_number:
                rest = code.select((bits & MAGNITUDE) == INFINITE, 0.0, rest)
        return [*found, rest.bits(vector(I32, rest.lanes))]

    def store_words(self, low: Value, high: Value, target: Value, place: Value, name: str, *, any_number: bool) -> None:
        """Store two vectors' numbers, two in each word, every part in its place.

        Args:
            low: a vector of float32, whose parts become the lower halves of the words.
            high: one for the upper halves.
            target: an address in scratch memory, among the first parts.
            place: words from there.
            name: which of PACKED_NAMES it is, which says how far a number's parts lie from one another.
            any_number: see `parts`.

        """
        code = self.code
        both = (self.parts(numbers, any_number=any_number) for numbers in (low, high))
        for part, (one, other) in enumerate(zip(*both, strict=True)):
            lower = Value(code, code.ir.lshr(one.raw, code.constant(one.type, 16).raw))
            code.store(target, lower | (other & UPPER), place + part * self.spec.packed_size(name))

    def numbers(self, source: Value, place: Value, name: str, lanes: int) -> tuple[Value, Value]:
        """The numbers of a vector of words, low and high, put together again.

        Args:
            source: an address in scratch memory, among the first parts.
            place: words from there.
            name: which of PACKED_NAMES it is, which says how far a number's parts lie from one another.
            lanes: how many words.

        Returns:
            Two vectors of float32, or scalars for one word.

        """
        words = [
            self.code.load(source, vector(I32, lanes), place + part * self.spec.packed_size(name))
            for part in reversed(range(self.spec.split))
        ]
        low, high = (
            [bits.bits(vector(F32, lanes)) for bits in half]
            for half in ([w << 16 for w in words], [w & UPPER for w in words])
        )
        return sum(low[1:], low[0]), sum(high[1:], high[0])

    # Packing. What is packed together is known by its largest magnitude, whose bits are kept.

    def pack_queries(self, source: Value, stride: Value, rows: Value) -> None:
        """Split a block of queries, scaled; those of float16 only negated, for their parts would be more than two."""
        code, spec, target, scale = self.code, self.spec, self.scratch["queries"], self.scale
        if self.factor is not None:
            scale = code.select(scale < 0.0, code.constant(spec.number, -1.0), 1.0)
        scales = code.spread(scale, spec.lanes)
        always = code.constant(I1, 1)

        def row(i: Value, so_far: Value) -> list[Value]:
            place = i * spec.key_words
            return [self._split_row(source, i * stride, always, target, place, "queries", so_far, scales)]

        largest = code.loop(0, rows, row, [self._nothing()])
        for part in range(spec.split):
            own = code.at(target, part * spec.packed_size("queries"), spec.number)
            zero_rows(code, spec, own, rows, code.i64(spec.block), spec.key_words)
        self._keep_largest("queries", target, largest)

    def pack_keys(self, source: Value, stride: Value, count: Value, target: Value) -> None:
        """Split a tile's keys, a vector's worth at a time, and transpose their words into panels."""
        code, spec = self.code, self.spec
        split = self.scratch["split_keys"]

        def group(g: Value, so_far: Value) -> list[Value]:
            def key(i: Value, so_far: Value) -> list[Value]:
                number = g * SIDE + i
                place = i * spec.key_words
                return [self._split_row(source, number * stride, number < count, split, place, "split_keys", so_far)]

            largest = code.loop(0, SIDE, key, [so_far])
            self._turn(self.columns_of(target, g))
            return largest

        self._keep_largest("keys", target, code.loop(0, self.groups(count), group, [self._nothing()]))

    def _turn(self, column: Value) -> None:
        """Transpose the words of 16 split keys."""
        code, spec = self.code, self.spec

        def block(word: Value) -> None:
            code.loop(0, spec.split, lambda part: of_part(word, part))

        def of_part(word: Value, part: Value) -> None:
            source = code.at(self.scratch["split_keys"], word + part * spec.packed_size("split_keys"), I32)
            target = code.at(column, word * spec.panel + part * spec.packed_size("keys"), I32)
            rows = [code.load(source, vector(I32, SIDE), i * spec.key_words) for i in range(SIDE)]
            for i, turned in enumerate(transposed(code, rows)):
                code.store(target, turned, i * spec.panel)

        code.loop(0, spec.key_words, block, step=SIDE)

    def pack_values(self, source: Value, stride: Value, count: Value, target: Value) -> None:
        """Split a tile's values; a word holds two rows' numbers."""
        code, spec = self.code, self.spec

        def pair(i: Value, so_far: Value) -> list[Value]:
            row = (i >> 4) * DEPTH + (i & (SIDE - 1))
            exist = [code.spread(one < count, SIDE) for one in (row, row + SIDE)]

            def some(start: Value, length: int, so_far: Value) -> list[Value]:
                inside = first_lanes(code, SIDE, length)
                valid = exist if inside is None else [exists & inside for exists in exist]
                low, high = (
                    load_numbers(code, spec, source, one * stride + start, SIDE, mask)
                    for one, mask in zip((row, row + SIDE), valid, strict=True)
                )
                self.store_words(low, high, target, i * spec.value_width + start, "values", any_number=True)
                return [self._larger(so_far, low, high)]

            return list(in_steps(code, spec.value_dim, SIDE, some, [so_far]))

        self._keep_largest("values", target, code.loop(0, self.weight_words(count), pair, [self._nothing()]))

    def _split_row(
        self,
        source: Value,
        first: Value,
        exists: Value,
        target: Value,
        place: Value,
        name: str,
        so_far: Value,
        scales: Value | None = None,
    ) -> Value:
        """Split a row of a query or key, zeros if it does not exist; gives the largest magnitudes so far."""
        code, spec = self.code, self.spec

        def some(start: Value, count: int, so_far: Value) -> list[Value]:
            halves = []
            for half in (0, SIDE):
                length = min(SIDE, count - half)
                if length <= 0:
                    halves.append(code.constant(vector(spec.number, SIDE), 0.0))
                    continue
                inside, valid = first_lanes(code, SIDE, length), code.spread(exists, SIDE)
                valid = valid if inside is None else valid & inside
                numbers = load_numbers(code, spec, source, first + start + half, SIDE, valid)
                halves.append(numbers if scales is None else numbers * scales)
            self.store_words(halves[0], halves[1], target, place + (start >> 1), name, any_number=True)
            return [self._larger(so_far, *halves)]

        return in_steps(code, spec.head_dim, DEPTH, some, [so_far])[0]

    def _nothing(self) -> Value:
        return self.code.constant(vector(I32, SIDE), 0)

    def _larger(self, so_far: Value, *some: Value) -> Value:
        """The larger magnitudes, as bits."""
        for numbers in some:
            so_far = self.code.maximum(so_far, numbers.bits(so_far.type) & MAGNITUDE)
        return so_far

    def _keep_largest(self, name: str, packed: Value, largest: Sequence[Value]) -> None:
        self.code.store(self.scratch["largest"], self.code.reduce("fmax", largest[0]), self._place(name, packed))

    def _place(self, name: str, packed: Value) -> Value:
        """Where the largest magnitude of a packed tile, or of the queries, is kept."""
        if name == "queries":
            return self.code.i64(0)
        tiles = self.spec.packed_keys // KEYS
        size = self.spec.packed_size(name) // tiles * self.spec.size
        return self.code.distance(self.scratch[name], packed) / size + (1 if name == "keys" else 1 + tiles)

    def _splits(self, name: str, packed: Value) -> Value:
        """Whether the parts of what is packed stand for its numbers."""
        largest = self.code.load(self.scratch["largest"], I32, self._place(name, packed))
        return (largest == 0) | ((largest >= TOO_SMALL) & (largest < TOO_LARGE))

    # The products.

    @property
    def factor(self) -> Value | None:
        """What the scores of a tile are still to be multiplied by: in float16 queries were not scaled."""
        return None if self.spec.dtype == "float32" else super().factor

    def score_tile(
        self, rows: Value, keys: Value, count: Value, beside: Beside | None = None, first: Value | int = 0
    ) -> None:
        """query @ key.T of packed queries, from the first on, and a tile of packed keys, into the tile of scores."""
        splits = self._splits("queries", self.scratch["queries"]) & self._splits("keys", keys)
        with self.code.either(splits) as (split, whole):
            with split:
                super().score_tile(rows, keys, count, beside, first)
            with whole:
                self._score_numbers(rows, keys, count, first)

    def store_weights(self, row: Value, weights: Sequence[Value], place: Value) -> None:
        """Keep some vectors of weights for `weigh`, split."""
        first = row * self.spec.word_stride + (place >> 1)
        for v in range(0, len(weights), 2):
            low, high = weights[v : v + 2]
            self.store_words(low, high, self.scratch["weights"], first + v // 2 * SIDE, "weights", any_number=False)

    def weigh(self, rows: Value, output: Value, values: Value, count: Value) -> None:
        """output = output * correction + weights @ value, for a block of rows."""
        with self.code.either(self._splits("values", values)) as (split, whole):
            with split:
                self._weigh_split(rows, output, values, count)
            with whole:
                self._weigh_numbers(rows, output, values, count)

    def _weigh_split(self, rows: Value, output: Value, values: Value, count: Value) -> None:
        """From zero: a tile's sum is rounded to its own size, not to that of the sum over all keys."""
        code, spec = self.code, self.spec

        def block(row: Value) -> None:
            in_steps(code, spec.value_width, DEPTH, lambda column, count: columns_at(row, column, count // SIDE))

        def columns_at(row: Value, column: Value, width: int) -> None:
            left, stride = self.weights(row)
            right = Operand(code.at(values, column, spec.number), spec.value_width, "values")
            self._clear()
            self._multiply(self.weight_words(count), Operand(left, stride, "weights"), right, width)
            self._store(self.scratch["product"], DEPTH, width)
            code.loop(0, DEPTH, lambda i: add(row, i, column, width))

        def add(row: Value, i: Value, column: Value, width: int) -> None:
            for v in range(width):
                own = code.load(self.scratch["product"], vector(spec.number, SIDE), i * DEPTH + v * SIDE)
                self._merge(output, row + i, column + v * SIDE, own)

        code.loop(0, rows, block, step=DEPTH)

    def _merge(self, output: Value, row: Value, column: Value | int, own: Value) -> None:
        """output * correction + a tile's sum, for a vector of a row."""
        code, spec = self.code, self.spec
        place = row * spec.value_width + column
        correction = code.spread(code.load(self.scratch["correction"], spec.number, row), SIDE)
        code.store(output, code.fma(code.load(output, own.type, place), correction, own), place)

    # The same for numbers that do not split, which is slow, and rare.

    def _score_numbers(self, rows: Value, keys: Value, count: Value, first: Value | int) -> None:
        code, spec = self.code, self.spec

        def group(row: Value, g: Value) -> None:
            left = Operand(code.at(self.scratch["queries"], (row + first) * spec.key_words, I32), 1, "queries")
            right = Operand(self.columns_of(keys, g), spec.panel, "keys")
            scores = self._sum_of_products(code.i64(spec.key_words), left, right)
            code.store(self.scratch["tile"], scores, row * spec.tile_stride + g * SIDE)

        code.loop(0, rows, lambda row: code.loop(0, self.groups(count), lambda g: group(row, g)))

    def _weigh_numbers(self, rows: Value, output: Value, values: Value, count: Value) -> None:
        code, spec = self.code, self.spec

        def column(row: Value, place: Value) -> None:
            left = Operand(self.weights(row)[0], 1, "weights")
            right = Operand(code.at(values, place, I32), spec.value_width, "values")
            self._merge(output, row, place, self._sum_of_products(self.weight_words(count), left, right))

        code.loop(0, rows, lambda row: code.loop(0, spec.value_width, lambda place: column(row, place), step=SIDE))

    def _sum_of_products(self, words: Value, left: Operand, right: Operand) -> Value:
        """left @ right for one row and a vector of columns."""
        code = self.code

        def step(word: Value, total: Value) -> list[Value]:
            factors = self.numbers(left.first, word, left.name, 1)
            operands = self.numbers(right.first, word * right.stride, right.name, SIDE)
            for factor, operand in zip(factors, operands, strict=True):
                total = code.fma(code.spread(factor, SIDE), operand, total)
            return [total]

        return code.loop(0, words, step, [code.constant(vector(self.spec.number, SIDE), 0.0)])[0]

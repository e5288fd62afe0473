"""The two products in pairs of bfloat16, by the processor's own dot product, at twice the rate of float32.

A word holds two neighbouring elements: of a query and a key two dimensions, of weights two keys, of values two rows.
The instruction multiplies bfloat16 exactly and adds in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine.builder import BF16, F32, I16, I32, Code, Value, vector
from pellucid.engines.cpu.products.tiles import Products, columns, first_lanes, rounded, zero_rows

DOT = "llvm.x86.avx512bf16.dpbf16ps.512"
ROUND_TWO = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"  # the second operand's lanes come first


class Dots(Products):
    """Products whose words are pairs of bfloat16."""

    def __init__(self, code: Code, spec: Spec, scratch: dict[str, Value], scale: Value) -> None:
        super().__init__(code, spec, scratch, scale)
        self.word = vector(I32, spec.lanes)

    def pack_queries(self, source: Value, stride: Value, rows: Value) -> None:
        """Copy a block of queries as they are, for scaling would round them again; negated if the scale is negative."""
        code, spec, lanes = self.code, self.spec, 2 * self.spec.lanes
        sign = code.spread(code.select(self.scale < 0.0, code.constant(I16, -0x8000), 0), lanes)
        target, width = self.scratch["queries"], 2 * self.spec.key_words

        def row(i: Value) -> None:
            for start, length in columns(spec.head_dim, lanes):
                valid = first_lanes(code, lanes, length)
                type_ = vector(I16, lanes)
                if valid is None:
                    code.store(target, code.load(source, type_, i * stride + start) ^ sign, i * width + start)
                    continue
                bits = code.masked_load(source, type_, valid, i * stride + start) ^ sign
                # An odd last element's partner is 0, and so are the words that fill up a vector.
                kept = None if spec.matrix else first_lanes(code, lanes, length + length % 2)
                if kept is None:
                    code.store(target, bits, i * width + start)
                else:
                    code.masked_store(target, bits, kept, i * width + start)

        code.loop(0, rows, row)
        zero_rows(code, spec, target, rows, code.i64(spec.block), spec.key_words)

    def pack_values(self, source: Value, stride: Value, count: Value, target: Value) -> None:
        """Interleave the rows of a tile's values two by two; a row that does not exist is zeros."""
        code, spec, lanes = self.code, self.spec, self.spec.lanes
        even_and_odd = [lane // 2 + lanes * (lane % 2) for lane in range(2 * lanes)]

        def pair(i: Value) -> None:
            exists = code.spread(i * 2 + 1 < count, lanes)
            for start, length in columns(spec.value_dim, lanes):
                every = first_lanes(code, lanes, length)
                type_, place = vector(I16, lanes), i * 2 * stride + start
                one = (
                    code.load(source, type_, place) if every is None else code.masked_load(source, type_, every, place)
                )
                both = exists if every is None else exists & every
                other = code.masked_load(source, type_, both, place + stride)
                words = code.shuffle(one, other, even_and_odd).bits(self.word)
                code.store(target, words, i * spec.value_width + start)

        pairs = rounded(count, 2) / 2
        code.loop(0, pairs, pair)
        zero_rows(code, spec, target, pairs, rounded(pairs, self.unroll), spec.value_width)

    def load_words(self, source: Value, row: Value, word: Value) -> Value:
        """A vector of pairs."""
        return self.code.load(self.code.at(source, row + word * 2, I16), self.word, align=2)

    def load_word(self, source: Value, row: Value, word: Value) -> Value:
        """One pair, an odd last element's partner being 0."""
        code, first = self.code, row + word * 2
        low = code.load(source, I16, first)
        if self.spec.head_dim % 2 == 0:
            high = code.load(source, I16, first + 1)
        else:
            inside = word < self.spec.words - 1
            high = code.select(inside, code.load(source, I16, code.select(inside, first + 1, first)), 0)
        return low.unsigned(I32) | (high.unsigned(I32) << 16)

    def multiply_add(self, factor: Value, operand: Value, total: Value) -> Value:
        """Both products of each pair, added to the total."""
        both = [word.bits(vector(BF16, 2 * self.spec.lanes)) for word in (factor, operand)]
        return self.code.intrinsic(DOT, vector(F32, self.spec.lanes), total, *both)

    @property
    def factor(self) -> Value | None:
        """What the scores of a tile are still to be multiplied by, never negative: queries were not scaled."""
        return self.code.unary("fabs", self.scale)

    def store_weights(self, row: Value, weights: Sequence[Value], place: Value) -> None:
        """Keep some vectors of weights for `weigh`, rounded to bfloat16: two at a time, where there are two."""
        code, lanes = self.code, self.spec.lanes
        for v in range(0, len(weights), 2):
            some = weights[v : v + 2]
            if len(some) == 2:
                rounded_weights = code.intrinsic(ROUND_TWO, vector(BF16, 2 * lanes), *some[::-1])
            else:
                rounded_weights = Value(code, code.ir.fptrunc(some[0].raw, vector(BF16, lanes)))
            bits = rounded_weights.bits(vector(I16, lanes * len(some)))
            code.store(self.scratch["weights"], bits, row * (2 * self.spec.word_stride) + place + v * lanes)

    def weights(self, row: Value) -> tuple[Value, int]:
        """Where a row's weights begin, and how far it is to the next row's, in words."""
        place = row * self.spec.word_stride
        return self.code.at(self.scratch["weights"], place, self.spec.number), self.spec.word_stride

    def weight_words(self, count: Value) -> Value:
        """Words of a row of `count` weights, as many as `weigh` reads."""
        return rounded(rounded(count, 2) / 2, self.unroll)

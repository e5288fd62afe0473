"""What a kernel is told: its specification, fixed when it is compiled, and its arguments, an array of int64.

The scratch memory of a thread is laid out here too; it depends on the specification alone, never on the lengths.
What readings keep for a whole chunk follows it, `Reading.memory` of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llvmlite import ir

from pellucid.engines.cpu.machine.builder import F16, F32, F64, I16
from pellucid.engines.cpu.machine.target import Target

if TYPE_CHECKING:
    from pellucid.engines.cpu.stages.stage import Stage

KEYS = 256  # keys of a tile
CHUNK = 2304  # queries of a task at most: packing the keys is shared by so many
KEPT = 1 << 20  # bytes at most that a task keeps of its queries' output and readouts
DECODE_RANGES = 8  # of a head's keys at most
DECODE_TASKS = 8  # of decode at least, if there are so many ranges
PACKED = 512 << 10  # bytes of keys and values packed at a time: half of a usual second-level cache
PACKED_NAMES = ("keys", "values", "queries", "weights", "split_keys")

# The arguments of every kernel, by their place in the array; those of its stages follow. Strides count elements.
TENSORS = ("query", "key", "value", "output")
ARGUMENTS = [
    "next_task", "tasks", "pairs", "scratch", "scratch_size",
    "heads", "inner_batch", "q_len", "k_len", "chunk", "chunks", "scale",
    *(f"{tensor}{suffix}" for tensor in TENSORS for suffix in ("", "_batch", "_inner", "_head", "_row")),
    "key_group", "value_group", "sinks", "state", "rows", "state_rows", "keys_a_range", "chunks_a_range", "lse",
    "kept", "ranges", "ranges_a_task",
    *(f"done_{pair}" for pair in range(DECODE_TASKS)),  # ranges done of each: fewer pairs are shared out among tasks
    "query_index", "key_index", "head_index",
    "dropout_seed", "dropout_probability", "dropout_scale",
]  # fmt: skip
SLOT = 10  # arguments of a captured tensor: address, table, four sizes, four strides


@dataclass(frozen=True)
class Spec:
    """What a kernel is compiled for."""

    target: Target
    dtype: str  # of query, key, value and output
    head_dim: int
    value_dim: int
    vectors: int  # vector registers of a panel of keys: fewer than a register tile's where keys are few
    integer_bits: int = 32  # of the score language's ints
    sinks: bool = False
    rows_out: bool = False  # whether the softmax's state is written for each row
    whole: bool = False  # whether the keys fill whole panels, so that with no mask nothing is masked
    group: int = 1  # of decode: query heads that share a key head
    queries: int = 1  # of decode
    shared_out: bool = False  # of decode: whether a head's keys are read in several tasks
    partial: bool = False  # whether the output is kept in the precision of the computation
    stages: tuple[Stage, ...] = ()  # the readouts
    dots: bool = False  # whether two bfloat16 lie in a word, multiplied by the processor's own dot product
    matrix: bool = False  # whether words are multiplied on matrix tiles
    split: int = 1  # numbers of bfloat16 that one is split into for them
    dropout: bool = False  # whether weights are dropped before the values are averaged

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each argument is in the array; captured tensors follow, `SLOT` numbers each."""
        own = (name for stage in self.stages for name in stage.arguments)
        return {name: place for place, name in enumerate((*ARGUMENTS, *self.arguments, *own))}

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of arguments that only this kind of kernel has."""
        return ()

    @property
    def storage(self) -> ir.Type:
        """How an element lies in memory."""
        return {"float16": F16, "bfloat16": I16, "float32": F32, "float64": F64}[self.dtype]

    @property
    def storage_size(self) -> int:
        """Bytes of an element in memory."""
        return {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[self.dtype]

    @property
    def output(self) -> ir.Type:
        """How an element of the output lies in memory."""
        return self.number if self.partial else self.storage

    @property
    def number(self) -> ir.Type:
        """What is computed with."""
        return F64 if self.dtype == "float64" else F32

    @property
    def weight_degree(self) -> int:
        """Of the polynomial that a weight comes from: its error is 3e-7, in float64 2e-16."""
        return 11 if self.dtype == "float64" else 5

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return 8 if self.dtype == "float64" else 4

    @property
    def lanes(self) -> int:
        """Numbers in a vector."""
        return self.target.lanes(self.size)

    @property
    def panel(self) -> int:
        """Keys that lie side by side in the packed keys."""
        return self.vectors * self.lanes

    @property
    def value_width(self) -> int:
        """The value dim, filled up to whole vectors."""
        return -(-self.value_dim // self.lanes) * self.lanes

    @property
    def per_word(self) -> int:
        """Elements in one packed word."""
        return 2 if self.dots else 1

    @property
    def block(self) -> int:
        """Queries that go through the keys together: a multiple of every register tile's rows."""
        return 32 if self.matrix else 48

    @property
    def strip(self) -> int:
        """How many of a block go together through a tile of which they look at different parts: a multiple as well."""
        return 32 if self.matrix else 16 if self.target.registers >= 32 else 24

    @property
    def chunk(self) -> int:
        """Queries of a task at most, whole blocks."""
        kept = sum(stage.a_row(self) for stage in self.stages)
        row = (self.value_width + len(self.accumulators) + kept) * self.size
        return min(CHUNK, KEPT // row) // self.block * self.block

    @property
    def words(self) -> int:
        """Words of a key or query, each as large as a number."""
        return -(-self.head_dim // self.per_word)

    @property
    def key_words(self) -> int:
        """Words of a packed key or query: matrix tiles want whole vectors, filled up with zeros."""
        return -(-self.words // self.lanes) * self.lanes if self.matrix else self.words

    @property
    def packed_keys(self) -> int:
        """Keys packed at a time: whole tiles."""
        per_key = (self.head_dim + self.value_width) * self.size * self.split // self.per_word
        return max(KEYS, PACKED // per_key // KEYS * KEYS)

    @property
    def tile_stride(self) -> int:
        """Numbers from one row of a tile of scores to the next: not a power of two, which would share cache sets."""
        return KEYS + self.lanes

    @property
    def word_stride(self) -> int:
        """Words from one row of a tile of paired weights to the next."""
        return KEYS // 2 + self.lanes

    @property
    def accumulators(self) -> list[str]:
        """The names of what is kept for each row beside the output, the softmax's two first."""
        return ["maximum", "total", *(name for stage in self.stages for name in stage.sums)]

    def packed_size(self, name: str) -> int:
        """Words of one part of what is packed."""
        return {
            "keys": self.packed_keys * self.key_words,
            "values": self.packed_keys * self.value_width // self.per_word,
            "queries": self.block * (self.key_words + self.lanes),
            "weights": self.block * self.word_stride if self.dots else 0,
            "split_keys": self.lanes * self.key_words if self.split > 1 else 0,  # before they are transposed
        }[name]

    @cached_property
    def scratch(self) -> dict[str, int]:
        """Where each part of a thread's scratch memory begins, in bytes; "end" is its size."""
        rows = self.chunk + self.block
        parts = {
            **{name: self.packed_size(name) * self.split for name in PACKED_NAMES},
            "tile": self.block * self.tile_stride,
            "partials": self.block * self.lanes * (len(self.accumulators) - 1),
            "correction": self.block,
            "shift": self.block,
            "factor": self.block if self.dots else 0,
            "drift": self.block if any(stage.relative for stage in self.stages) else 0,
            "output": rows * self.value_width,
            "product": 4 * self.lanes**2 if self.split > 1 else 0,
            "largest": 1 + 2 * (self.packed_keys // KEYS) if self.split > 1 else 0,
        } | dict.fromkeys(self.accumulators, rows)
        for stage in self.stages:
            parts |= stage.scratch(self, rows)
        places, end = {}, 0
        for name, numbers in parts.items():
            places[name] = end
            end += -(-numbers * self.size // 64) * 64
        return places | {"end": end}

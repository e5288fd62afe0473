"""What a backward kernel is told: its specification, its own arguments, and a thread's scratch memory."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

from pellucid.engines.cpu.layout import KEYS, Spec
from pellucid.engines.cpu.products.amx import SIDE

if TYPE_CHECKING:
    from pellucid.engines.cpu.stages.gradient import GradientStage

# Tensors that kernels of the forward pass do not have, with strides as theirs.
UPSTREAM = ("gradient", "gradient_batch", "gradient_inner", "gradient_head", "gradient_row")
ARGUMENTS = (
    *UPSTREAM,
    "d_query", "d_key", "d_value",  # contiguous: [pairs, q_len, head_width], [shares, k_len, dim]
    "maximum", "log_total", "offset",  # [batch, heads, q_len]
    "group", "done",  # heads that share a key head; how many tiles of keys each block of queries has behind it
)  # fmt: skip
MATRIX_BLOCK = 128  # queries whose products are added up on matrix tiles before they go back to memory
QUERY_WORDS = MATRIX_BLOCK // 2 + 16  # from one dimension of turned queries to the next, in words
# Of a task in which several pairs of batch and key head, or tiles of keys, are taken one after another.
SHARES = ("tiles_a_task", "batch_size", "batches_a_task", "key_heads", "heads_a_task", "splits_of_heads")
OF_CAPTURED = ("d_captured", "d_captured_range", "d_captured_batch")  # an address, and numbers from copy to copy
SPARE = 16  # columns of a tile beyond its keys, at least as many as a register tile has rows


@dataclass(frozen=True)
class Capture:
    """A load of a captured tensor, to which a gradient goes from a function's value."""

    tensor: int  # which of those with gradients
    load: str  # the root of the program that it is
    derivative: str  # the root that is the function's derivative with respect to it
    source: str  # which function: "score", or as a stage calls it
    dtype: str  # of the sums
    once: bool  # whether each place gets one gradient, which is put there, and nothing else is


@dataclass(frozen=True)
class BackwardSpec(Spec):
    """What a backward kernel is compiled for."""

    stages: tuple[GradientStage, ...] = ()  # of the readouts whose gradients there are
    summed: bool = (
        False  # whether keys' and values' gradients are added up afterwards, and so kept as they are computed
    )

    captures: tuple[Capture, ...] = ()

    @classmethod
    def of(cls, spec: Spec, *, summed: bool, captures: tuple[Capture, ...] = ()) -> BackwardSpec:
        """The same call's, by that of its forward kernel; numbers are not split for matrix tiles."""
        own = {field.name: getattr(spec, field.name) for field in fields(Spec)}
        if spec.split > 1:
            own |= {"dots": False, "matrix": False, "split": 1}
        return cls(**own | {"summed": summed, "captures": captures})

    @property
    def mirrored(self) -> Spec:
        """That of products which take values for keys, and keys for values."""
        return replace(self, head_dim=self.value_dim, value_dim=self.head_dim)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The upstream gradient, the results, the rows' softmax; of captured tensors that have gradients, these."""
        tensors = sorted({capture.tensor for capture in self.captures})
        return (*ARGUMENTS, *(SHARES if tensors else ()), *(f"{name}_{i}" for i in tensors for name in OF_CAPTURED))

    @property
    def block(self) -> int:
        """Queries that go through a tile of keys together."""
        return MATRIX_BLOCK if self.matrix else super().block

    @property
    def query_step(self) -> int:
        """Gradients of a head's queries are filled up to a multiple of so many rows."""
        return 2 * SIDE if self.matrix else 1

    @property
    def head_rows(self) -> int:
        """Rows, or numbers of a row, of the keys' gradients in the scratch memory."""
        return -(-self.head_dim // (2 * SIDE)) * 2 * SIDE if self.matrix else self.head_width

    @property
    def value_rows(self) -> int:
        """The same of the values'."""
        return -(-self.value_dim // (2 * SIDE)) * 2 * SIDE if self.matrix else self.value_width

    @property
    def head_width(self) -> int:
        """The head dim, filled up to whole vectors."""
        return -(-self.head_dim // self.lanes) * self.lanes

    @property
    def packed_keys(self) -> int:
        """Keys packed at a time: a tile."""
        return KEYS

    @property
    def tile_stride(self) -> int:
        """Numbers from one row of a tile to the next."""
        return KEYS + max(SPARE, self.lanes)

    @cached_property
    def scratch(self) -> dict[str, int]:
        """Where each part of a thread's scratch memory begins, in bytes; "end" is its size."""
        block, words, tile = self.block, self.mirrored.key_words, self.block * self.tile_stride
        parts = {
            "keys": self.packed_keys * self.key_words,  # in panels, as those that follow
            "values": self.packed_keys * words,
            "key_rows": KEYS * self.head_width // self.per_word,
            "queries": block * (self.key_words + self.lanes),
            "gradients": block * (words + self.lanes),
            "query_rows": (block + 4) * self.head_width // self.per_word,
            "gradient_rows": (block + 4) * self.value_width // self.per_word,
            "tile": tile,
            "slopes": tile,
            "weights": block * self.word_stride if self.dots else 0,
            "weight_pairs": tile // 2 if self.dots else 0,
            "slope_pairs": tile // 2 if self.dots else 0,
            "delta": block,
            "query_columns": self.head_rows * QUERY_WORDS if self.matrix else 0,
            "gradient_columns": self.value_rows * QUERY_WORDS if self.matrix else 0,
            "lanes": self.lanes * (1 + 8 // self.size) if self.captures else 0,  # places, 64 bits each, and numbers
            "d_keys": (KEYS + SPARE) * self.head_rows,
            "d_values": (KEYS + SPARE) * self.value_rows,
        }
        for stage in self.stages:
            parts |= stage.scratch(self, self.block)
        places, end = {}, 0
        for name, numbers in parts.items():
            places[name] = end
            end += -(-numbers * self.size // 64) * 64
        return places | {"end": end}

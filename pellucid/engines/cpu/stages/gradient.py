"""What a readout is in the backward pass: a GradientStage, the code that it adds to the kernel, and its part in a call.

Of each score's gradient, dS = P (A - D), a readout adds to A, the gradient of the weight, where the sum over the keys
of P A is its part of D; or to dS itself. What it adds that is the same for all of a row's keys, its part of D among
it, is its offset, which the kernel need not know apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pellucid.engines.cpu.machine.builder import Value
from pellucid.engines.cpu.stages.stage import LOWEST, Found, Stage
from pellucid.language import Expression
from pellucid.problem import Problem
from pellucid.readouts import Readout

if TYPE_CHECKING:
    from pellucid.engines.cpu.expression.values import Values
    from pellucid.engines.cpu.kernels.backward.kernel import Backward
    from pellucid.engines.cpu.kernels.block import Block


@dataclass
class Weights:
    """Neighbouring weights of a row, again."""

    backward: Backward
    unplaced: Values  # the user's functions, with b, h and q known
    weight: Value
    logarithm: Value  # of the weight, counted in the kernel's `unit`; -inf where masked
    block: Block
    place: Value  # the first key, counted from the tile's: a 64-bit integer of the kernel
    masked: bool  # whether any may be masked, or no key

    @cached_property
    def keys(self) -> Value:
        """The keys' indices."""
        return self.backward.sweep.keys(self.block, self.place)

    @cached_property
    def functions(self) -> Values:
        """The user's functions of these keys."""
        return self.unplaced.bind("k", self.keys)

    @cached_property
    def exists(self) -> Value | None:
        """Which lanes are keys; None if all are."""
        return self.backward.sweep.exists(self.block, self.place) if self.masked else None

    @cached_property
    def finite(self) -> Value:
        """The logarithm, of which a weight of 0 is a multiple as well."""
        return self.backward.code.maximum(LOWEST, self.logarithm)

    def of_share(self, log_share: Value) -> Value:
        """The logarithm of the weight's share, by that of a share of 1."""
        code = self.backward.code
        return code.minimum(0.0, code.fma(log_share, 1.0 / self.backward.unit, self.finite))


@dataclass(frozen=True)
class GradientStage(Stage):
    """The code of a readout's gradient. What is not overridden adds nothing; `name` is what its arguments begin with.

    It is compiled for the readouts whose gradients there are, and holds nothing that a kernel does not depend on.
    """

    name: str

    def known(self, backward: Backward, block: Block, row: Value) -> Any:
        """What the others must know of a row of the block, before its keys in the tile come by."""

    def upstream(self, weights: Weights, known: Any, so_far: Value) -> Value:
        """The gradients of some weights, A, with the readout's added."""
        return so_far

    def slope(self, weights: Weights, known: Any, so_far: Value) -> Value:
        """The gradients of some scores, P (A - D), with the readout's added."""
        return so_far

    def of_functions(self, weights: Weights, known: Any) -> dict[str, Value]:
        """The gradients of its functions' values, by their names, for what the functions captured."""
        return {}


class Back(NamedTuple):
    """What a reading's part in the backward pass is made from."""

    problem: Problem
    gradient: Tensor  # of the result, of its first tensor if there are several
    result: Any
    found: Found
    read: Callable[[Readout], Any]  # the result of another readout of the same call

    @property
    def dtype(self) -> torch.dtype:
        """Of the computation."""
        return self.found.lse.dtype

    @property
    def log_share(self) -> Tensor:
        """What is added to the logarithm of a weight for that of its share of all that the keys have."""
        whole, keys = self.found.rows.whole, self.found.rows.keys
        return (whole.shift - keys.shift) + (whole.divisor.log() - keys.divisor.log())


def number_of_row(backward: Backward, name: str, block: Block, row: Value) -> Value:
    """A number that is known of each query, in every lane.

    Args:
        backward: the kernel being written.
        name: of the argument, the address of [*batch, heads, q_len].
        block: some queries.
        row: which of them.

    """
    return backward.code.spread(backward.of_query(name, block, row), backward.lanes)


@dataclass(frozen=True)
class Carried:
    """What a readout's gradient comes to in a call.

    Attributes:
        stage: the code, if an offset is not all.
        offset: what is added to the gradient of each of a row's scores, but for its weight; [*batch, heads, q_len].
        tensors: of the stage, by argument, contiguous.
        numbers: of the stage, by argument.
        function: of the stage, in the kernel's program under the stage's name.
        of_sinks: the gradients of each row's sink; None if it is the offset times the sink's weight.

    """

    stage: GradientStage | None
    offset: Tensor
    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    function: Expression | None = None
    of_sinks: Tensor | float | None = None

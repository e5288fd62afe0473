"""What a readout is on this engine: a Stage, the code that it adds to a kernel, and a Reading, its part in a call.

A stage decides the kernel's text and holds nothing else, so that calls with other sizes share a kernel; what a call's
sizes come to is the reading's. Forward and decode ask the same stage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pellucid.engines.cpu.machine.builder import Value
from pellucid.engines.reason import Reason
from pellucid.language import Expression
from pellucid.problem import Problem
from pellucid.readouts import Readout
from pellucid.readouts.base import Rows

if TYPE_CHECKING:
    from pellucid.engines.cpu.expression.values import Values
    from pellucid.engines.cpu.kernels.block import Block, Task
    from pellucid.engines.cpu.kernels.columns import Columns
    from pellucid.engines.cpu.kernels.forward import Forward
    from pellucid.engines.cpu.layout import Spec
    from pellucid.engines.cpu.stages.gradient import Back, Carried

LOWEST = -1e30  # stands for -inf where it is multiplied by a weight of 0


@dataclass
class Vector:
    """Neighbouring weights of a row, as a stage adds them to its sums."""

    forward: Forward
    unplaced: Values  # the user's functions, with b, h and q known
    score: Value  # -inf only where masked: a distance may be too large for a number
    weight: Value  # exp(score - maximum), 0 where masked
    distance: Value  # what it is the exponential of, counted in `unit`
    block: Block
    place: Value  # the first key, counted from the tile's: a 64-bit integer of the kernel

    @cached_property
    def functions(self) -> Values:
        """The user's functions of these keys."""
        return self.unplaced.bind("k", self.forward.sweep.keys(self.block, self.place))

    @cached_property
    def exists(self) -> Value:
        """Which lanes are keys."""
        return self.forward.sweep.exists(self.block, self.place)


@dataclass(frozen=True)
class Stage:
    """The code of a readout in the pass over the keys. What is not overridden does nothing.

    Methods appear in the order in which their code runs. Their `forward` is the kernel being written; rows count from
    the chunk's first in `task` and in `scratch`, from the block's where there is a block.

    Attributes:
        relative: whether its sums must know how far a maximum has moved, the scratch memory's "drift".
        reads_scores: whether it keeps scores, which must then be as they are used, not multiplied later.
        reads_weights: whether it reads the weights of whole rows where the tile's scores lay.
        long: whether its code is so long that a second copy, for tiles without mask, would cost more than it saves.
        in_decode: whether it goes through keys that are read in place.
        written: of the second sweep, the argument that says where each range of queries has sums of its own.

    """

    relative: ClassVar[bool] = False
    reads_scores: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = False
    long: ClassVar[bool] = False
    in_decode: ClassVar[bool] = True
    written: ClassVar[str] = ""

    @classmethod
    def together(cls, stages: Sequence[Any]) -> Sequence[Stage]:
        """The stages of one class in a call, each once."""
        return list(dict.fromkeys(stages))

    # What it keeps.

    @property
    def sums(self) -> tuple[str, ...]:
        """The names of its sums over a row's keys, of which each row has one number."""
        return ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of its arguments in the kernel's array."""
        return ()

    def a_row(self, spec: Spec) -> int:
        """Numbers that it keeps of each row beside its sums."""
        return 0

    def scratch(self, spec: Spec, rows: int) -> dict[str, int]:
        """Parts of a thread's scratch memory, in numbers; `rows` are a chunk's."""
        return {}

    # What it does.

    def start(self, forward: Forward, task: Task, rows: Value) -> None:
        """No key seen yet; `rows` are the chunk's, up to whole blocks. Its sums are 0 already."""

    def maxima(self, forward: Forward, partials: Sequence[Value], row: Value) -> Value | None:
        """The largest score of each of some rows, if it finds them itself; `partials` are those of each row's lanes."""
        return None

    def before(self, forward: Forward, block: Block, row: Value) -> None:
        """A row's scores are as they are used, and not yet weights."""

    def terms(self, vector: Vector) -> Iterator[Callable[[Value], Value]]:
        """For each of its sums, what gives the sum, lane by lane, with a vector of weights added."""
        yield from ()

    def moved(self, forward: Forward, own: Value, total: Value, drift: Callable[[], Value]) -> Value:
        """A sum of some rows relative to a larger maximum, but for the factor.

        Args:
            forward: the kernel.
            own: the sums, a row in each lane.
            total: the rows' sums of exponentials, before they are multiplied as well.
            drift: gives the maximum so far less the larger one, counted in `unit`.

        """
        return own

    def factor(self, forward: Forward, correction: Value, drift: Callable[[], Value]) -> Value:
        """What a sum, once moved, is multiplied by: `correction`, which is exp(drift), for sums of exponentials."""
        return correction

    def after(self, forward: Forward, block: Block, row: Value) -> None:
        """The weights of as many rows as a vector has lanes are known, and the rows' state is merged."""

    def finish(self, forward: Forward, task: Task) -> None:
        """All keys were seen: rows are final."""

    def natural(self, forward: Forward, own: Value) -> Value:
        """A sum as the reading takes it, where it has counted scores in `unit`."""
        return own

    def write(self, forward: Forward, row: Value, place: Value, shift: Value, total: Value) -> None:
        """Write what was kept of a row.

        Args:
            forward: the kernel.
            row: which of the chunk.
            place: its index in [batch, heads, q_len].
            shift: its largest score, 0 if it has no key.
            total: its sum of exponentials.

        """

    # Where a head's keys are shared out, and ranges of them merged.

    def kept(self, spec: Spec, rows: int) -> dict[str, int]:
        """The parts of the scratch memory that are kept of a range of keys beside its sums, in numbers."""
        return {}

    def merge(self, forward: Forward, kept: dict[str, Value], row: Value) -> None:
        """Add what a range of later keys came to, for a row; where each part was kept is by its name."""

    # In a second sweep over all keys, with final weights.

    def begin_tile(self, columns: Columns, block: Block) -> None:
        """A block of queries comes to a tile."""

    def of_row(self, columns: Columns, query: Value) -> Any:
        """What `add` must know of a query."""

    def add(self, columns: Columns, of_row: Any, place: Value, weight: Value) -> None:
        """A vector of a query's final weights.

        Args:
            columns: the kernel being written.
            of_row: what `of_row` gave for the query.
            place: the vector's first key, counted from the tile's: a 64-bit integer of the kernel.
            weight: the weights.

        """

    def end_tile(self, columns: Columns, block: Block) -> None:
        """All rows of a block went through the tile."""


class Sizes(NamedTuple):
    """What the sizes of a reading's tensors depend on."""

    spec: Spec
    rows: tuple[int, ...]  # [*batch, heads, q_len]
    queries: int  # of a task
    dtype: torch.dtype  # of the computation
    device: str = "cpu"  # or "meta", for the sizes alone


@dataclass(frozen=True)
class Found:
    """What a call came to, for readings to make their results of."""

    problem: Problem
    sums: dict[str, Tensor]  # by the name of a stage's sum, [*batch, heads, q_len]
    written: dict[str, Tensor]  # by the argument that says where
    queries: int  # of a task
    rows: Rows
    lse: Tensor
    columns: dict[str, Any] = field(default_factory=dict)  # by readout: results of the second sweep


@dataclass(frozen=True)
class Reading(ABC):
    """One readout's part in a call: all that is known of it before the call runs.

    Attributes:
        name: where the result is kept.

    """

    name: str

    @classmethod
    def why_not(cls, readout: Any) -> Reason | None:
        """Why this engine does not read such a readout; None if it does."""
        return None

    @classmethod
    def of(cls, readout: Any, problem: Problem, roots: Sequence[str]) -> Reading:
        """The reading of a readout; `roots` are the names of its functions in the kernel's program."""
        return cls(readout.name)

    @property
    def stage(self) -> Stage | None:
        """Its stage in the pass over the keys."""
        return None

    @property
    def second(self) -> Stage | None:
        """Its stage in a second sweep, with final weights."""
        return None

    @property
    def ranges(self) -> int | None:
        """Ranges of a head's queries at most, if what it keeps of each is so much that they must be few."""
        return None

    def memory(self, queries: int, spec: Spec) -> int:
        """Bytes of a thread's memory for so many queries, after the scratch memory."""
        return 0

    def numbers(self, memory: int) -> dict[str, int]:
        """Its arguments that are numbers; `memory` is where its own memory begins, in bytes."""
        return {}

    def written(self, sizes: Sizes) -> dict[str, Tensor]:
        """What the kernel writes, by argument."""
        return {}

    def tables(self, sizes: Sizes) -> dict[str, Tensor]:
        """What the kernel reads, by argument, made for the call."""
        return {}

    @abstractmethod
    def result(self, readout: Any, found: Found) -> Any:
        """The readout's result."""

    # In the backward pass.

    @property
    def carries(self) -> bool:
        """Whether `carried` says what its gradient comes to."""
        return False

    @property
    def kept(self) -> tuple[str, ...]:
        """What the kernel wrote that `carried` reads again, by argument."""
        return ()

    def of_weights(self, readout: Any, gradient: Tensor) -> Expression | None:
        """The gradient that each weight gets, a function of the place, of a readout that sums over queries."""
        return None

    def carried(self, name: str, readout: Any, back: Back) -> Carried:
        """What the gradient comes to of any other readout; `name` is no other's in the kernel.

        Raises TypeError if nothing does, which `carries` says.
        """
        raise TypeError(f"{type(self).__name__} carries no gradient back")


def one_of_a_name(readout: Readout) -> Reason | None:
    """Why a readout under another name than its own is not read."""
    usual = type(readout).name
    if readout.name == usual:
        return None
    return Reason(f"it reads one {usual!r} a call, under that name, not {readout.name!r}", mine=True)

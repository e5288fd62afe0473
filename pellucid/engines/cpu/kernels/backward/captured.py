"""Gradients of captured tensors: a row's slopes, times a function's derivative, added at the place that it loads.

They are added without atomic operations. Each task has a copy of its own of what others may write to as well, and the
copies are added up afterwards (call/captured.py says how many there are). Three ways lead into memory:

- an index that the key has no part in, such as a head's slope: a row's lanes are added up before one number is;
- the key itself as the last index, such as a mask's: the lanes are neighbours, known when the kernel is written;
- any other: whether the lanes are neighbours, forwards or, as of q - k, backwards, or one and the same, is asked of
  each vector. If they are none of these they are added one after another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from pellucid.engines.cpu.expression.program import STORED
from pellucid.engines.cpu.expression.values import Values, inputs_of, is_along_keys
from pellucid.engines.cpu.kernels.backward.layout import Capture
from pellucid.engines.cpu.machine.builder import F32, I64, Code, Value, bytes_of, vector
from pellucid.engines.cpu.products import tiles

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.backward.kernel import Backward


class Captured:
    """What a kernel adds to the gradients of captured tensors."""

    def __init__(self, kernel: Backward) -> None:
        self.kernel, self.code = kernel, kernel.code
        self.targets: dict[int, Value] = {}

    def begin(self, batches: Value, tiles: Value) -> None:
        """At a task's beginning: find its copies.

        Args:
            batches: which part of the batch it takes, a 64-bit integer of the kernel, as the other.
            tiles: which part of the tiles of keys.

        """
        kernel = self.kernel
        for capture in kernel.spec.captures:
            name = f"d_captured%s_{capture.tensor}"
            copy = tiles * kernel.argument(name % "_range") + batches * kernel.argument(name % "_batch")
            self.targets[capture.tensor] = self.code.at(kernel.pointer(name % ""), copy, STORED[capture.dtype])

    def of_row(self, functions: Values, key: Value, exists: Value | None) -> Row:
        """What is added for one row of a strip.

        Args:
            functions: the user's, of which all but the key and the score is known.
            key: index of the strip's first key, a 64-bit integer of the kernel.
            exists: whether there is such a row, in every lane; None if that is known. If not its gradients are 0.

        """
        adders = []
        for capture in self.kernel.spec.captures:
            make, target = self._way(capture), self.targets[capture.tensor]
            adders.append(make(self.kernel, capture, target, functions, key, exists))
        return Row(adders)

    def _way(self, capture: Capture) -> type[Adder]:
        load = self.kernel.program.roots[capture.load]
        if capture.once:
            return Once
        if is_along_keys(load):
            return AlongKeys
        return Anywhere if {"k", "score"} & inputs_of(*load.args) else OfRow


class Adder(ABC):
    """What one load's tensor gets of a row.

    Args:
        kernel: the kernel being written.
        capture: the load.
        target: where the sums of its tensor begin.
        functions: the user's, the row known.
        key: the first key, a 64-bit integer of the kernel.
        exists: whether the row does, in every lane; None if it does.

    """

    def __init__(
        self,
        kernel: Backward,
        capture: Capture,
        target: Value,
        functions: Values,
        key: Value,
        exists: Value | None,
    ) -> None:
        self.code: Code = kernel.code
        self.lanes, self.target, self.key, self.exists = kernel.lanes, target, key, exists
        self.load, self.derivative = kernel.program.roots[capture.load], kernel.program.roots[capture.derivative]
        self.source, self.dtype = capture.source, capture.dtype
        self.type = vector(kernel.number, kernel.lanes)
        self.spare = kernel.scratch.get("lanes")
        self.begin(functions)

    def begin(self, functions: Values) -> None:  # noqa: B027 - some have nothing in common
        """Compute what the row's places have in common."""

    @abstractmethod
    def add(self, functions: Values, gradients: Value, place: Value, valid: Value | None) -> Callable[[], None]:
        """What adds a vector of gradients.

        Args:
            functions: the user's, the key and the score known.
            gradients: of the load, 0 in lanes where there is none.
            place: the vector's first key, counted from the strip's.
            valid: lanes that are keys; all if None.

        """

    def end(self) -> None:  # noqa: B027 - most have added already
        """After the row's last vector."""

    def into(self, offset: Value, numbers: Value, valid: Value | None = None) -> None:
        """Add to the neighbours that lie `offset` numbers on."""
        numbers = numbers.to(STORED[self.dtype])
        if valid is None:
            self.code.store(self.target, self.code.load(self.target, numbers.type, offset) + numbers, offset)
            return
        known = self.code.masked_load(self.target, numbers.type, valid, offset)
        self.code.masked_store(self.target, known + numbers, valid, offset)


class OfRow(Adder):
    """At one place for all keys."""

    def begin(self, functions: Values) -> None:
        """Nothing is added up yet."""
        self.offset = functions.element(self.load, len(self.load.args))
        self.sum = self.code.variable(self.code.constant(self.type, 0.0))

    def add(self, functions: Values, gradients: Value, place: Value, valid: Value | None) -> Callable[[], None]:
        """See `Adder`."""
        return lambda: self.sum.set(self.sum.get() + gradients)

    def end(self) -> None:
        """Add the row's sum."""
        self.into(self.offset, self.code.reduce("add", self.sum.get()))


class AlongKeys(Adder):
    """At the keys of a row, side by side."""

    def begin(self, functions: Values) -> None:
        """Where the strip's first key is."""
        self.offset = functions.element(self.load, len(self.load.args) - 1) + self.key

    def add(self, functions: Values, gradients: Value, place: Value, valid: Value | None) -> Callable[[], None]:
        """See `Adder`. Another thread may be at the keys behind the last, which are left alone."""
        return lambda: self.into(self.offset + place, gradients, valid)


class Once(AlongKeys):
    """The same where nothing else is ever added: it is put there, rounded to the tensor's dtype."""

    def into(self, offset: Value, numbers: Value, valid: Value | None = None) -> None:
        """Put it."""
        if self.exists is not None:
            valid = self.exists if valid is None else valid & self.exists
        if self.dtype == "bfloat16":
            raw = tiles.float_to_bfloat16(self.code, numbers.to(F32))
        else:
            raw = numbers.to(STORED[self.dtype])
        if valid is None:
            self.code.store(self.target, raw, offset)
        else:
            self.code.masked_store(self.target, raw, valid, offset)


class Anywhere(Adder):
    """Wherever each lane's index says; every lane's is inside the tensor."""

    def add(self, functions: Values, gradients: Value, place: Value, valid: Value | None) -> Callable[[], None]:
        """See `Adder`."""
        offsets = functions.element(self.load, len(self.load.args), valid)
        return lambda: self._add(self.code.spread(offsets, self.lanes), gradients)

    def _add(self, offsets: Value, gradients: Value) -> None:
        code = self.code
        first, ramp = offsets.lane(0), code.ramp(I64, self.lanes)
        steps = offsets - code.spread(first, self.lanes)
        with code.either(self._all(steps == -ramp)) as (backwards, otherwise):
            with backwards:
                turned = code.shuffle(gradients, gradients, range(self.lanes - 1, -1, -1))
                self.into(first - (self.lanes - 1), turned)
            with otherwise, code.either(self._all(steps == ramp)) as (forwards, neither):
                with forwards:
                    self.into(first, gradients)
                with neither, code.either(self._all(steps == 0)) as (one, several):
                    with one:
                        self.into(first, code.reduce("add", gradients))
                    with several:
                        self._by_lane(offsets, gradients)

    def _all(self, condition: Value) -> Value:
        return ~self.code.any(~condition)

    def _by_lane(self, offsets: Value, gradients: Value) -> None:
        code, spare = self.code, self.spare
        assert spare is not None
        code.store(spare, offsets)
        numbers = code.at(spare, self.lanes * bytes_of(I64))
        code.store(numbers, gradients)
        number = self.type.element
        code.loop(0, self.lanes, lambda i: self.into(code.load(spare, I64, i), code.load(numbers, number, i)))


class Row:
    """All that captured tensors get of one row."""

    def __init__(self, adders: list[Adder]) -> None:
        self.adders = adders

    def add(
        self, functions: Values, upstream: dict[str, Value], allowed: Value, place: Value, valid: Value | None
    ) -> None:
        """Add a vector's gradients.

        Args:
            functions: the user's, the key and the score known.
            upstream: the gradient of each function's value, by the function's name.
            allowed: lanes that the mask allows.
            place: the vector's first key, counted from the strip's.
            valid: lanes that are keys; all if None.

        """
        steps = []
        for adder in self.adders:
            code = adder.code
            derivative = code.spread(functions.value(adder.derivative, valid), adder.lanes)
            gradients = code.select(allowed, upstream[adder.source] * derivative, 0.0)
            steps.append(adder.add(functions, gradients, place, valid))
        # Only now does memory change: until then what was loaded before needs not be loaded again.
        for step in steps:
            step()

    def end(self) -> None:
        """After the last vector."""
        for adder in self.adders:
            adder.end()

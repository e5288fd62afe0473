"""TopK: a sorted list of each row's largest scores and their keys.

A tile's scores that may be among the largest are found as bits, many at a time, and then let into the list one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import I32, I64, Code, Value, vector
from pellucid.engines.cpu.products import tiles
from pellucid.engines.cpu.stages.gradient import Back, Carried
from pellucid.engines.cpu.stages.places import carried_weights
from pellucid.engines.cpu.stages.stage import Found, Reading, Sizes, Stage, one_of_a_name
from pellucid.engines.reason import Reason
from pellucid.problem import Problem
from pellucid.readouts.topk import TopKeys

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.engines.cpu.kernels.block import Block, Task
    from pellucid.engines.cpu.kernels.forward import Forward
    from pellucid.engines.cpu.layout import Spec

MOST = 128
LISTS = ("top_scores", "top_keys")


@dataclass(frozen=True)
class TopKStage(Stage):
    """A list of `k` scores and keys a row, whole vectors."""

    k: int
    reads_scores = True
    long = True

    @property
    def arguments(self) -> tuple[str, ...]:
        """Where scores and keys are written."""
        return LISTS

    def width(self, spec: Spec) -> int:
        """Places of a list: whole vectors."""
        return -(-self.k // spec.lanes) * spec.lanes

    def a_row(self, spec: Spec) -> int:
        """Both lists."""
        return 2 * self.width(spec)

    def scratch(self, spec: Spec, rows: int) -> dict[str, int]:
        """The lists, and of a tile its k-th largest scores and a bit for each key."""
        tile = {"kth": spec.block, "candidates": KEYS // 8 // spec.size}
        return tile | dict.fromkeys(LISTS, rows * self.width(spec))

    def start(self, forward: Forward, task: Task, rows: Value) -> None:
        """No key on any list."""
        count = rows * self.width(forward.spec)
        forward.fill(forward.scratch["top_scores"], count, forward.code.constant(forward.number, -math.inf))
        forward.fill(forward.scratch["top_keys"], count, forward.code.constant(I32, -1))

    def maxima(self, forward: Forward, partials: Sequence[Value], row: Value) -> Value | None:
        """The largest of each row, and kept the k-th of its lanes' largest: the k-th of all is no less."""
        if self.k > forward.lanes:
            return None
        code = forward.code
        largest = tiles.descending(code, tiles.transposed(code, partials))
        code.store(forward.scratch["kth"], largest[self.k - 1], row)
        return largest[0]

    def before(self, forward: Forward, block: Block, row: Value) -> None:
        """Let the row's scores into its list; among equals the lower key stays first."""
        code, scores = forward.code, forward.row_of_tile(row)
        first = (block.row + row) * self.width(forward.spec)
        listed = self._listed(forward, first)
        words = self._candidates(forward, block, row, self._threshold(code, listed[: len(listed) // 2]))

        def candidate(_: Value, *carried: Value) -> list[Value]:
            place, rest = _lowest_bit(code, carried[: len(words)])
            score, key = code.load(scores, forward.number, place), (block.key + place).to(I32)
            return [*rest, *_inserted(code, carried[len(words) :], score, key)]

        count = sum((code.count_bits(word) for word in words[1:]), code.count_bits(words[0]))
        # One loop over all of them, for a processor guesses wrongly where each loop ends.
        self._keep_listed(forward, first, code.loop(0, count, candidate, [*words, *listed])[len(words) :])

    def _listed(self, forward: Forward, first: Value) -> list[Value]:
        """A row's list of the largest scores, and then their keys; `first` is its place."""
        code, places = forward.code, range(0, self.width(forward.spec), forward.lanes)
        scores = [code.load(forward.scratch["top_scores"], forward.type, first + place) for place in places]
        keys = vector(I32, forward.lanes)
        return scores + [code.load(forward.scratch["top_keys"], keys, first + place) for place in places]

    def _keep_listed(self, forward: Forward, first: Value, listed: Sequence[Value]) -> None:
        """Put a row's list back."""
        half = len(listed) // 2
        for i, (scores, keys) in enumerate(zip(listed[:half], listed[half:], strict=True)):
            forward.code.store(forward.scratch["top_scores"], scores, first + i * forward.lanes)
            forward.code.store(forward.scratch["top_keys"], keys, first + i * forward.lanes)

    def _candidates(self, forward: Forward, block: Block, row: Value, last: Value) -> list[Value]:
        """The keys that may be among the row's largest, a bit for each: those larger than the last of the list."""
        code, scores, words = forward.code, forward.row_of_tile(row), forward.scratch["candidates"]
        least = self._least(forward, row)
        for word in range(KEYS // 64):
            code.store(words, code.i64(0), word)

        def panel(j: Value) -> None:
            bits = code.load(words, I64, j >> 6)
            for v in range(forward.spec.vectors):
                some = code.load(scores, forward.type, j + v * forward.lanes)
                larger = some > last if least is None else (some > last) & (some >= least)
                bits = bits | (code.bitmask(larger) << ((j & 63) + v * forward.lanes))
            code.store(words, bits, j >> 6)

        code.loop(0, block.count, panel, step=forward.panel)
        return [code.load(words, I64, word) for word in range(KEYS // 64)]

    def _least(self, forward: Forward, row: Value) -> Value | None:
        """What a score must be at least to be among the row's largest in the tile, in every lane, if it is known."""
        if self.k > forward.lanes:
            return None
        return forward.code.spread(forward.code.load(forward.scratch["kth"], forward.number, row), forward.lanes)

    def _threshold(self, code: Code, listed: Sequence[Value]) -> Value:
        """What a score must be larger than to be among the largest: the last of them, in every lane."""
        lanes = listed[0].lanes
        last, lane = listed[(self.k - 1) // lanes], (self.k - 1) % lanes
        return code.shuffle(last, last, [lane] * lanes) if lanes > 1 else last

    def write(self, forward: Forward, row: Value, place: Value, shift: Value, total: Value) -> None:
        """The list, scores less the row's maximum; no key of a row that is NaN."""
        code = forward.code

        def top(i: Value) -> None:
            own = row * self.width(forward.spec) + i
            score = code.load(forward.scratch["top_scores"], forward.number, own)
            key = code.load(forward.scratch["top_keys"], I32, own)
            key = code.select(total == total, key, -1)
            code.store(forward.pointer("top_scores"), (score - shift) * forward.unit, place * self.k + i)
            code.store(forward.pointer("top_keys"), key.to(I64), place * self.k + i)

        code.loop(0, self.k, top)

    def kept(self, spec: Spec, rows: int) -> dict[str, int]:
        """The lists."""
        return dict.fromkeys(LISTS, rows * self.width(spec))

    def merge(self, forward: Forward, kept: dict[str, Value], row: Value) -> None:
        """Let a row's largest scores of later keys into the list."""
        code, first = forward.code, row * self.width(forward.spec)

        def candidate(i: Value, *listed: Value) -> list[Value]:
            score = code.load(kept["top_scores"], forward.number, first + i)
            return _inserted(code, listed, score, code.load(kept["top_keys"], I32, first + i))

        self._keep_listed(forward, first, code.loop(0, self.k, candidate, self._listed(forward, first)))


@dataclass(frozen=True)
class TopKReading(Reading):
    """How many."""

    k: int

    @classmethod
    def why_not(cls, readout: Any) -> Reason | None:
        """It keeps one list, of so many keys."""
        if readout.k > MOST:
            return Reason(f"TopK keeps up to {MOST} keys a row, not {readout.k}", mine=True)
        return one_of_a_name(readout)

    @classmethod
    def of(cls, readout: Any, problem: Problem, roots: Sequence[str]) -> TopKReading:
        """By how many."""
        return cls(readout.name, readout.k)

    @property
    def stage(self) -> TopKStage:
        """A list."""
        return TopKStage(self.k)

    def written(self, sizes: Sizes) -> dict[str, Tensor]:
        """Scores less the row's maximum, and keys, [*batch, heads, q_len, k]."""
        shape = (*sizes.rows, self.k)
        scores = torch.empty(shape, dtype=sizes.dtype, device=sizes.device)
        return {"top_scores": scores, "top_keys": torch.empty(shape, dtype=torch.int64, device=sizes.device)}

    def result(self, readout: Any, found: Found) -> TopKeys:
        """The scores as weights; a sink that is NaN the kernel has not seen among the scores."""
        scores, keys = (found.written[name] for name in LISTS)
        weights = scores.exp_().mul_(found.rows.factor[..., None])
        if found.rows.sink is not None:
            keys = keys.masked_fill(found.rows.whole.total.isnan()[..., None], -1)
        return TopKeys(weights, keys)

    carries = True

    def carried(self, name: str, readout: Any, back: Back) -> Carried:
        """To the weights of those keys."""
        return carried_weights(name, back.result.keys, back.result.weights, back.gradient)


def _inserted(code: Code, listed: Sequence[Value], score: Value, key: Value) -> list[Value]:
    """The sorted list, scores and then their keys, with one more before the first that is smaller."""
    half = len(listed) // 2
    scores, keys = listed[:half], listed[half:]
    lanes = scores[0].lanes
    moved = range(lanes - 1, 2 * lanes - 1)  # every lane's left neighbour
    left, left_key = code.constant(scores[0].type, math.inf), keys[0]
    result = []
    for own, its_key in zip(scores, keys, strict=True):
        before, key_before = code.shuffle(left, own, moved), code.shuffle(left_key, its_key, moved)
        after = score > own  # places from the new one's on
        beyond = score > before
        result.append(
            (
                code.select(after, code.select(beyond, before, score), own),
                code.select(after, code.select(beyond, key_before, key), its_key),
            )
        )
        left, left_key = own, its_key
    return [one for one, _ in result] + [one for _, one in result]


def _lowest_bit(code: Code, words: Sequence[Value]) -> tuple[Value, list[Value]]:
    """The place of the lowest bit that is set in some words, and the words without it."""
    word, first = words[-1], code.i64(len(words) - 1)
    for i in reversed(range(len(words) - 1)):
        found = words[i] != 0
        word, first = code.select(found, words[i], word), code.select(found, code.i64(i), first)
    rest = word & (word - 1)
    return first * 64 + code.lowest_bit(word), [code.select(first == i, rest, own) for i, own in enumerate(words)]

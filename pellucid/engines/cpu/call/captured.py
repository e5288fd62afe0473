"""Where the gradients of captured tensors are added up: which loads get them, who adds to which copy, and their sum.

A task that adds to a tensor has a copy of its own, unless what it adds to is its alone: the columns of its keys, or
the part of its heads or batches. How the work is shared out follows from shapes alone; the copies are added up in
their order, so that the sums are the same for any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.engines.cpu.call.folding import folded
from pellucid.engines.cpu.call.specify import dtype_name
from pellucid.engines.cpu.expression.values import inputs_of, is_along_keys
from pellucid.engines.cpu.kernels.backward.layout import Capture
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine import memory
from pellucid.language import TRUE, Expression, derivatives, walk
from pellucid.problem import Problem

MOST_COPIES = 8  # of a tensor, at most, and fewer where all take more than
MOST_COPIED = 64 << 20  # bytes
BYTES = 8  # of a number in a copy


def captures_of(
    problem: Problem, functions: dict[str, Expression]
) -> tuple[tuple[Capture, ...], dict[str, Expression]]:
    """The loads that get gradients, and the roots of a program that they need.

    Args:
        problem: the call.
        functions: through whose values gradients go, by what the kernel calls these; "score" is score_mod.

    """
    if not problem.captured:
        return (), {}
    numbers = {id(tensor): number for number, tensor in enumerate(problem.captured)}
    captures: list[Capture] = []
    roots: dict[str, Expression] = {}
    for source, function in functions.items():
        loads = [node for node in walk(function) if node.op == "load" and id(node.value) in numbers]
        for load, derivative in zip(loads, derivatives(function, loads), strict=True):
            names = f"load_{len(captures)}", f"of_load_{len(captures)}"
            roots |= dict(zip(names, (load, derivative), strict=True))
            captures.append(Capture(numbers[id(load.value)], *names, source, "float64", once=False))
    gathered = [_Tensor.of(problem, number, captures, roots) for number in range(len(problem.captured))]
    return tuple(replace(c, dtype=gathered[c.tensor].dtype, once=gathered[c.tensor].once) for c in captures), roots


@dataclass(frozen=True)
class _Tensor:
    """How one captured tensor is loaded."""

    tensor: Tensor
    by_key: bool  # each key has a column of its own, by_head and by_batch likewise
    by_head: bool
    by_batch: bool
    is_matrix: bool  # by key, and by query: each place is added to once, or once for each batch and head
    once: bool  # every place is, by the only load
    dtype: str  # of the sums: few numbers are added up in float64

    @classmethod
    def of(cls, problem: Problem, number: int, captures: Iterable[Capture], roots: dict[str, Expression]) -> _Tensor:
        """The number-th captured tensor's."""
        tensor = problem.captured[number]
        loads = [roots[capture.load] for capture in captures if capture.tensor == number]
        batches = torch.Size(problem.batch).numel()
        by_key = all(is_along_keys(load) for load in loads) and (not loads or tensor.shape[-1] >= problem.k_len)
        by_query = all("q" in inputs_of(*load.args) for load in loads)
        by_head, by_batch = (_is_by(n, size, loads) for n, size in (("h", problem.heads), ("b", batches)))
        is_matrix, once = by_key and by_query, _is_once(problem, loads)
        dtype = dtype_name(tensor) if once else str(problem.dtype if is_matrix else torch.float64)
        return cls(tensor, by_key, by_head, by_batch, is_matrix, once, dtype.removeprefix("torch."))


def _is_once(problem: Problem, loads: list[Expression]) -> bool:
    """Whether each place of the matrix has an element of its own, loaded once; none is skipped, none is beside them."""
    if len(loads) != 1 or problem.mask is not TRUE or not is_along_keys(loads[0]):
        return False
    counts = {"b": torch.Size(problem.batch).numel(), "h": problem.heads, "q": problem.q_len, "k": problem.k_len}
    sizes = zip(loads[0].args, loads[0].value.shape, strict=True)
    # Beside dimensions of size 1 each index is an input, and none is there twice.
    found = [(index.value if index.op == "input" else None, size) for index, size in sizes if size > 1]
    return sorted(found, key=str) == sorted(((n, c) for n, c in counts.items() if c > 1), key=str)


def _is_by(name: str, size: int, loads: list[Expression]) -> bool:
    """Whether an input, which has so many values, is alone the index of one dimension wherever a tensor is loaded."""
    if size == 1 or not loads:
        return True
    found = [{d for d, i in enumerate(load.args) if i.op == "input" and i.value == name} for load in loads]
    return any(loads[0].value.shape[dimension] >= size for dimension in set.intersection(*found))


@dataclass(frozen=True)
class Shares:
    """How the tiles of keys of all pairs of batch and key head are shared out in tasks."""

    arguments: dict[str, int]  # of the kernel
    tensors: dict[str, Tensor]  # by argument: zeros, of [batches, tiles, *shape], where copies are needed
    problem: Problem

    def gradients(self) -> tuple[Tensor, ...]:
        """When the kernel has run: those of `problem.captured`."""
        found = []
        for number, own in enumerate(self.problem.captured):
            copies = self.tensors.get(f"d_captured_{number}")
            found.append(torch.zeros_like(own) if copies is None else folded(copies.flatten(0, 1), 0).to(own.dtype))
        return tuple(found)


def shares_of(problem: Problem, captures: tuple[Capture, ...], roots: dict[str, Expression], group: int) -> Shares:
    """The tasks, and where they add to.

    Args:
        problem: the call.
        captures: see `captures_of`.
        roots: of the program.
        group: query heads that share a key head.

    """
    numbers = sorted({capture.tensor for capture in captures})
    gathered = {number: _Tensor.of(problem, number, captures, roots) for number in numbers}
    batches, tiles, heads = torch.Size(problem.batch).numel(), -(-problem.k_len // KEYS), problem.heads // group
    if not gathered:
        return Shares({}, {}, problem)
    parts = _parts(problem, list(gathered.values()), batches, tiles)
    splits = heads if all(tensor.by_head for tensor in gathered.values()) else 1
    arguments = {
        "pairs": parts[0] * splits,
        "tasks": parts[0] * splits * parts[1],
        "tiles_a_task": -(-tiles // parts[1]),
        "batch_size": batches,
        "batches_a_task": -(-batches // parts[0]),
        "key_heads": heads,
        "heads_a_task": heads // splits,
        "splits_of_heads": splits,
    }
    made = {}
    for number, tensor in gathered.items():
        size, copies = tensor.tensor.numel(), _copies(tensor, parts)
        empty = memory.empty((*copies, *tensor.tensor.shape), getattr(torch, tensor.dtype))
        made[f"d_captured_{number}"] = empty if tensor.once else empty.zero_()
        arguments[f"d_captured_batch_{number}"] = 0 if tensor.by_batch else size * copies[1]
        arguments[f"d_captured_range_{number}"] = 0 if tensor.by_key else size
    return Shares(arguments, made, problem)


def _copies(tensor: _Tensor, parts: tuple[int, int]) -> tuple[int, int]:
    """How many copies of a tensor's gradient there are, by parts of the batch and of the tiles."""
    return 1 if tensor.by_batch else parts[0], 1 if tensor.by_key else parts[1]


def _parts(problem: Problem, tensors: list[_Tensor], batches: int, tiles: int) -> tuple[int, int]:
    """Into how many parts the batch, and the tiles of keys, are cut.

    Never by the number of threads, nor of heads; by that of batches only as far as the gradients are sums over these.
    """
    of_batch = batches if all(tensor.by_batch for tensor in tensors) else 1
    of_tiles = tiles if all(tensor.by_key for tensor in tensors) else _evenly(tiles, MOST_COPIES)
    if of_batch == 1 and not any(tensor.is_matrix for tensor in tensors):
        of_batch = _evenly(batches, MOST_COPIES // of_tiles)
    while of_batch * of_tiles > 1 and _copied(tensors, (of_batch, of_tiles)) > MOST_COPIED:
        of_batch, of_tiles = (1, of_tiles) if of_batch > 1 else (1, _evenly(tiles, of_tiles // 2))
    return of_batch, of_tiles


def _evenly(number: int, most: int) -> int:
    """At most so many parts of one size, the last one smaller; none is empty."""
    return -(-number // -(-number // max(most, 1)))


def _copied(tensors: list[_Tensor], parts: tuple[int, int]) -> int:
    """Bytes of all copies."""
    several = [own for own in tensors if math.prod(_copies(own, parts)) > 1]
    return sum(own.tensor.numel() * math.prod(_copies(own, parts)) * BYTES for own in several)

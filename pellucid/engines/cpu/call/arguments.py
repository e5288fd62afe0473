"""A call of a kernel: its arguments, an array of int64, from the tensors of a problem."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid import dropout
from pellucid.engines.cpu.coverage import MOST_SLOT_DIMS
from pellucid.engines.cpu.expression.bounds import TABLE_BLOCK
from pellucid.engines.cpu.expression.program import Program, Slot
from pellucid.engines.cpu.kernels.columns import Columns
from pellucid.engines.cpu.kernels.emit import emit
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.layout import SLOT, Spec
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine import threads
from pellucid.engines.cpu.machine.address import address_of, address_of_own
from pellucid.engines.cpu.stages.stage import Reading
from pellucid.language import walk
from pellucid.problem import Problem
from pellucid.tensors import storage
from pellucid.tensors.once import forget_oldest

NO_TENSORS: dict[str, Tensor] = {}
TASKS_A_THREAD = 4
MOST_PREPARED = 512
WORK_A_THREAD = 1 << 17  # multiplications that are worth another thread
RANGES = 8  # ranges of queries that have column sums of their own
KEPT_BYTES = 2 << 20  # of a thread's memory at most for what readings keep, if a single block does not need more
# Chunks of a head where they do, for any number of threads, heads and batches: what is rounded together is the same.
KEPT_CHUNKS = 8
LEAST_KEPT = 512  # queries of such a chunk, if there are as many: packing the keys is shared by so many

_prepared: dict[Hashable, Prepared] = {}  # of kernels that are no plan's, the least recently made first


@dataclass(frozen=True)
class Prepared:
    """A kernel and its arguments, all but the addresses: the same for calls that differ in their numbers alone."""

    kernel: compiler.Loaded
    numbers: bytes  # the arguments, with 0 for every address
    array: type[ctypes.Array[ctypes.c_int64]]
    queries: int  # of a task
    scratch: int  # bytes for each thread
    workers: int
    places: dict[str, int]  # of the arguments in the array
    slots: tuple[Slot, ...]
    reaches: dict[str, int]  # of tensors whose layout is the caller's, by the argument that is their address
    captured_reaches: tuple[int, ...]

    def run(
        self, tensors: dict[str, Tensor], own: dict[str, Tensor], captured: Sequence[Tensor], seed: int = 0
    ) -> None:
        """Call the kernel.

        Args:
            tensors: by the argument that is its address, laid out as when this was prepared; contiguous, if it was not
                there then.
            own: the same, contiguous and just made.
            captured: a tensor for each of `slots`.
            seed: of dropout.

        Raises:
            AddressError: one is not in memory.

        """
        arguments = self.array.from_buffer_copy(self.numbers)  # its own: other threads may be in this call as well
        for name, tensor in tensors.items():
            arguments[self.places[name]] = address_of(tensor, self.reaches.get(name))
        for name, tensor in own.items():
            arguments[self.places[name]] = address_of_own(tensor)
        arguments[self.places["dropout_seed"]] = seed
        tables = self._captured(arguments, captured) if captured else ()  # held until the kernel has run
        scratch = threads.scratch(self.workers * self.scratch)
        arguments[self.places["scratch"]] = threads.aligned(scratch)
        threads.run(self.kernel.address, ctypes.addressof(arguments), self.workers)
        del tables

    def _captured(self, arguments: ctypes.Array[ctypes.c_int64], captured: Sequence[Tensor]) -> list[Tensor]:
        """Put the addresses of captured tensors and of their tables among the arguments; give the tables."""
        tables = []
        places = range(len(self.places), len(arguments), SLOT)
        for place, tensor, reach, slot in zip(places, captured, self.captured_reaches, self.slots, strict=True):
            arguments[place] = address_of(tensor, reach)
            if slot.table:
                tables.append(_table(tensor))
                arguments[place + 1] = address_of_own(tables[-1])
        return tables


def prepare(
    problem: Problem,
    kernel: type[Kernel],
    program: Program,
    spec: Spec,
    readings: Sequence[Reading],
    own: dict[str, int],
    output: Tensor,
    others: dict[str, Tensor] = NO_TENSORS,
) -> Prepared:
    """A kernel's call on problems like this one.

    Args:
        problem: its query, key and value as `in_place` leaves them.
        kernel: which.
        program: the problem's functions.
        spec: what the kernel is compiled for.
        readings: of the call.
        own: arguments that this kernel alone has, or has otherwise.
        output: a tensor laid out as the output is.
        others: tensors of the caller's that this kernel alone reads, by argument, as `in_place` leaves them.

    """
    loaded = compiler.function(
        kernel.__name__.lower(),
        f"{spec!r} {program.description()}",
        lambda module: emit(module, kernel, spec, program),
        spec.target,
    )
    named = _sizes(problem, kernel, spec, readings)
    scratch = spec.scratch["end"]
    for reading in readings:
        named |= reading.numbers(scratch)
        scratch += reading.memory(named["chunk"], spec)
    named |= {
        "scratch_size": scratch,
        "scale": _bits(problem.scale),
        "dropout_probability": dropout.probability(problem.dropout_p),
        "dropout_scale": _bits(dropout.scale(problem.dropout_p)),
        "key_group": group_of(problem.heads, problem.key),
        "value_group": group_of(problem.heads, problem.value),
    }
    output = in_place(output, problem.batch)  # a view: it is contiguous, or has few strides
    placed = {"query": problem.query, "key": problem.key, "value": problem.value, **others}
    for name, tensor in (*placed.items(), ("output", output)):
        named |= _strides(name, tensor)
    named |= own
    workers = max(1, min(torch.get_num_threads(), named["tasks"], -(-_work(named, spec) // WORK_A_THREAD)))
    numbers = [named.get(name, 0) for name in spec.places]
    captured = captured_by(program)
    for tensor in captured:
        numbers += _layout(tensor)
    array = ctypes.c_int64 * len(numbers)
    slots = tuple(program.slots[id(tensor)] for tensor in captured)
    queries = named["chunk"] * named["chunks_a_range"]
    reaches = {name: storage.reach(tensor) for name, tensor in (*placed.items(), ("output", output))}
    of_captured = tuple(map(storage.reach, captured))
    return Prepared(
        loaded, bytes(array(*numbers)), array, queries, scratch, workers, spec.places, slots, reaches, of_captured
    )


def call(
    problem: Problem,
    kernel: type[Kernel],
    program: Program,
    spec: Spec,
    readings: Sequence[Reading],
    own: dict[str, int],
    tensors: dict[str, Tensor],
    made: dict[str, Tensor],
    others: dict[str, Tensor] = NO_TENSORS,
) -> None:
    """Run a kernel on a problem once.

    Args:
        problem: what it is run on.
        kernel: see `prepare`, as for the two that follow.
        program: the problem's functions.
        spec: what the kernel is compiled for.
        readings: those whose arguments it has.
        own: arguments that this kernel alone has, or has otherwise.
        tensors: contiguous, by the argument that is their address.
        made: the same, just made, "output" among them.
        others: see `prepare`.

    """
    query, key, value = (in_place(t, problem.batch) for t in (problem.query, problem.key, problem.value))
    problem = problem.having(query, key, value)
    others = {name: in_place(tensor, problem.batch) for name, tensor in others.items()}
    captured = captured_by(program)
    known = (
        kernel, spec, program.description(), *readings, *own.items(), problem.batch, problem.heads,
        problem.scale, math.copysign(1, problem.scale), problem.dropout_p, made["output"].shape,
        *((t.shape, t.stride(), t.dtype) for t in (query, key, value, *others.values(), *captured)),
        torch.get_num_threads(),
    )  # fmt: skip
    prepared = _prepared.get(known)
    if prepared is None:
        prepared = prepare(problem, kernel, program, spec, readings, own, made["output"], others)
        forget_oldest(_prepared, MOST_PREPARED - 1)
        _prepared[known] = prepared
    tensors = tensors | {"query": query, "key": key, "value": value, **others}
    if problem.sinks is not None:
        tensors["sinks"] = sinks_in(problem.sinks, problem.dtype)
    prepared.run(tensors, made, captured, seed_of(problem))


def seed_of(problem: Problem) -> int:
    """The seed of a call's dropout, a number; 0 without."""
    return int(problem.dropout_seed) if problem.dropout_p else 0


def captured_by(program: Program) -> tuple[Tensor, ...]:
    """The captured tensors, in the order of their slots."""
    tensors = {id(n.value): n.value for n in walk(*program.roots.values()) if n.op == "load"}
    return tuple(tensors[key] for key, _ in sorted(program.slots.items(), key=lambda item: item[1].number))


def in_place(tensor: Tensor, batch: tuple[int, ...]) -> Tensor:
    """A tensor as kernels can read it: copied if its rows are not contiguous or it has too many strides."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    if len(batch) > 2 or tensor.ndim - 3 > 2:
        return tensor.expand(*batch, *tensor.shape[-3:]).reshape(-1, batch[-1], *tensor.shape[-3:])
    return tensor


def sinks_in(sinks: Tensor, dtype: torch.dtype) -> Tensor:
    """Sinks as kernels read them, [heads]."""
    return sinks if sinks.dtype == dtype and sinks.is_contiguous() else sinks.detach().to(dtype).contiguous()


def group_of(heads: int, tensor: Tensor) -> int:
    """How many query heads share each head of a [..., kv_heads, length, dim] tensor."""
    return max(1, heads // tensor.shape[-3]) if tensor.shape[-3] > 1 else max(heads, 1)


def _sizes(problem: Problem, kernel: type[Kernel], spec: Spec, readings: Sequence[Reading]) -> dict[str, int]:
    pairs = math.prod(problem.rows[:-1])
    if kernel is Columns:
        chunk, most = _column_chunk(problem, spec), [RANGES]
    else:
        chunk, most = _chunk(problem, pairs, spec, readings), [r.ranges for r in readings if r.ranges is not None]
    chunks = -(-problem.q_len // chunk)
    # More than one chunk a task where each task has sums of its own, of which there should not be many.
    per_range = -(-chunks // min(chunks, max(most))) if most else 1
    rows = pairs * problem.q_len
    return {
        "tasks": pairs * -(-chunks // per_range),
        "pairs": pairs,
        "rows": rows,
        "state_rows": rows,
        "heads": problem.heads,
        "inner_batch": problem.batch[-1] if problem.batch else 1,
        "q_len": problem.q_len,
        "k_len": problem.k_len,
        "chunk": chunk,
        "chunks": chunks,
        "chunks_a_range": per_range,
    }


def _work(named: dict[str, int], spec: Spec) -> int:
    """Multiplications of the two products."""
    return named["rows"] * named["k_len"] * (spec.head_dim + spec.value_dim)


def _chunk(problem: Problem, pairs: int, spec: Spec, readings: Sequence[Reading]) -> int:
    """Queries a chunk: as many as keys are packed for, but enough tasks for every thread."""
    wanted, most = -(-TASKS_A_THREAD * torch.get_num_threads() // pairs), spec.chunk
    kept = sum(reading.memory(spec.block, spec) for reading in readings)
    if kept:
        wanted = min(KEPT_CHUNKS, -(-problem.q_len // LEAST_KEPT))
        most = min(most, max(1, KEPT_BYTES // kept) * spec.block)
    blocks = -(-problem.q_len // spec.block)
    per_head = max(wanted, -(-blocks * spec.block // most))
    return max(1, -(-blocks // per_head)) * spec.block


def _column_chunk(problem: Problem, spec: Spec) -> int:
    """The same for any number of threads, for the sums of a range of chunks are rounded together."""
    return min(spec.chunk, -(-problem.q_len // (RANGES * spec.block)) * spec.block)


def _strides(name: str, tensor: Tensor) -> dict[str, int]:
    """A tensor's strides; 0 where a dimension is broadcast."""
    sizes, strides = tensor.shape[:-3], tensor.stride()
    steps = [0, 0]
    for back in range(1, len(sizes) + 1):
        steps[-back] = strides[-3 - back] if sizes[-back] > 1 else 0
    head = strides[-3] if tensor.shape[-3] > 1 else 0
    return {f"{name}_batch": steps[0], f"{name}_inner": steps[1], f"{name}_head": head, f"{name}_row": strides[-2]}


def _bits(number: float) -> int:
    """A float64's bits."""
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


def _layout(tensor: Tensor) -> list[int]:
    """What a slot holds: room for two addresses, sizes and strides."""
    fill = [0] * (MOST_SLOT_DIMS - tensor.ndim)
    numbers = [0, 0, *tensor.shape, *fill, *tensor.stride(), *fill]
    assert len(numbers) == SLOT
    return numbers


def _table(tensor: Tensor) -> Tensor:
    """Minima, then maxima, of blocks of the last dimension: int64 [2, rows, blocks]."""
    rows = tensor.detach().reshape(-1, tensor.shape[-1]).to(torch.int64)
    missing = -rows.shape[-1] % TABLE_BLOCK
    if missing:
        rows = torch.cat([rows, rows[:, -1:].expand(-1, missing)], 1)
    low, high = rows.unflatten(1, (-1, TABLE_BLOCK)).aminmax(dim=-1)
    return torch.stack([low, high]).contiguous()

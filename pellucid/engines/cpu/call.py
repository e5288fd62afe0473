"""A call of a kernel: its arguments, an array of int64, from the tensors of a problem."""

from __future__ import annotations

import ctypes
import struct

import torch
from torch import Tensor

from pellucid.engines.cpu import compile as compiler
from pellucid.engines.cpu import threads
from pellucid.engines.cpu.columns import Columns
from pellucid.engines.cpu.coverage import MOST_SLOT_DIMS
from pellucid.engines.cpu.emit import emit
from pellucid.engines.cpu.kernel import Kernel
from pellucid.engines.cpu.layout import CHUNK, FIXED, SLOT, Spec
from pellucid.engines.cpu.program import TABLE_BLOCK, Program, Slot
from pellucid.language import walk
from pellucid.problem import Problem

TASKS_A_THREAD = 4
RANGES = 8  # ranges of queries that have column sums of their own


def call(
    problem: Problem, kernel: type[Kernel], program: Program, spec: Spec, own: dict[str, int], output: Tensor
) -> None:
    """Run a kernel on a problem; `own` are arguments that only this kernel has."""
    address = compiler.function(
        kernel.__name__.lower(),
        f"{spec!r} {program.description()}",
        lambda module: emit(module, kernel, spec, program),
        spec.target,
    )
    pairs = torch.Size(problem.rows[:-1]).numel()
    chunk = _column_chunk(problem, spec.block) if kernel is Columns else _chunk(problem, pairs, spec.block)
    chunks = -(-problem.q_len // chunk)
    per_range = -(-chunks // min(chunks, RANGES))
    rows = pairs * problem.q_len
    kept: list[Tensor] = []
    named = {
        "tasks": pairs * (-(-chunks // per_range) if kernel is Columns else chunks),
        "pairs": pairs,
        "rows": rows,
        "state_rows": rows,
    } | own
    workers = min(torch.get_num_threads(), named["tasks"])
    named |= {
        "scratch": threads.scratch(workers * spec.scratch["end"]),
        "scratch_size": spec.scratch["end"],
        "heads": problem.heads,
        "inner_batch": problem.batch[-1] if problem.batch else 1,
        "q_len": problem.q_len,
        "k_len": problem.k_len,
        "chunk": chunk,
        "chunks": chunks,
        "chunks_a_range": per_range,
        "scale": struct.unpack("<q", struct.pack("<d", problem.scale))[0],
        "key_group": group_of(problem.heads, problem.key),
        "value_group": group_of(problem.heads, problem.value),
        "sinks": _address(problem.sinks, problem.dtype, kept),
    }
    for name, tensor in (("query", problem.query), ("key", problem.key), ("value", problem.value), ("output", output)):
        named |= _laid_out(name, tensor, problem, kept)
    numbers = [named.get(name, 0) for name in FIXED]
    for tensor, slot in _by_number(program):
        numbers += _slot_arguments(tensor, slot, kept)
    arguments = (ctypes.c_int64 * len(numbers))(*numbers)
    threads.run(address, ctypes.addressof(arguments), workers)


def _chunk(problem: Problem, pairs: int, block: int) -> int:
    """Queries a task: as many as keys are packed for, but enough tasks for every thread."""
    wanted = TASKS_A_THREAD * torch.get_num_threads()
    per_head = -(-wanted // pairs)
    blocks = -(-problem.q_len // block)
    return min(CHUNK, max(1, -(-blocks // per_head)) * block)


def _column_chunk(problem: Problem, block: int) -> int:
    """The same for any number of threads, for the sums of a range of chunks are rounded together."""
    return min(CHUNK, -(-problem.q_len // (RANGES * block)) * block)


def group_of(heads: int, tensor: Tensor) -> int:
    """How many query heads share each head of a [..., kv_heads, length, dim] tensor."""
    return max(1, heads // tensor.shape[-3]) if tensor.shape[-3] > 1 else max(heads, 1)


def _laid_out(name: str, tensor: Tensor, problem: Problem, kept: list[Tensor]) -> dict[str, int]:
    """A tensor's address and strides; copied if its rows are not contiguous or it has more than 2 batch dimensions."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    batch = problem.batch
    if len(batch) > 2 or tensor.ndim - 3 > 2:
        tensor = tensor.expand(*batch, *tensor.shape[-3:]).reshape(-1, batch[-1], *tensor.shape[-3:])
    kept.append(tensor)
    sizes, strides = tensor.shape[:-3], tensor.stride()
    steps = [0, 0]
    for back in range(1, len(sizes) + 1):
        steps[-back] = strides[-3 - back] if sizes[-back] > 1 else 0
    group_head = strides[-3] if tensor.shape[-3] > 1 else 0
    return {
        name: tensor.data_ptr(),
        f"{name}_batch": steps[0],
        f"{name}_inner": steps[1],
        f"{name}_head": group_head,
        f"{name}_row": strides[-2],
    }


def _address(tensor: Tensor | None, dtype: torch.dtype, kept: list[Tensor]) -> int:
    if tensor is None:
        return 0
    kept.append(tensor.detach().to(dtype).contiguous())
    return kept[-1].data_ptr()


def _by_number(program: Program) -> list[tuple[Tensor, Slot]]:
    tensors = {id(n.value): n.value for n in walk(*program.roots.values()) if n.op == "load"}
    return [(tensors[key], slot) for key, slot in sorted(program.slots.items(), key=lambda item: item[1].number)]


def _slot_arguments(tensor: Tensor, slot: Slot, kept: list[Tensor]) -> list[int]:
    table = _table(tensor) if slot.table else None
    if table is not None:
        kept.append(table)
    sizes, strides = list(tensor.shape), list(tensor.stride())
    fill = [0] * (MOST_SLOT_DIMS - tensor.ndim)
    numbers = [tensor.data_ptr(), 0 if table is None else table.data_ptr(), *sizes, *fill, *strides, *fill]
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

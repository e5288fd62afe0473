"""The engine's face: from a Problem to a kernel's specification and arguments, a call, and a Result.

Only what is known per call is done here, in plain Python; the work is the kernel's.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass, replace
from typing import Any

import torch
from llvmlite import ir
from torch import Tensor

from pellucid.engines.cpu import compile as compiler
from pellucid.engines.cpu import threads
from pellucid.engines.cpu.builder import I64, POINTER, Code
from pellucid.engines.cpu.columns import Columns
from pellucid.engines.cpu.decode import Decode
from pellucid.engines.cpu.forward import Forward
from pellucid.engines.cpu.kernel import Kernel
from pellucid.engines.cpu.layout import CHUNK, FIXED, KEYS, ROWS, SLOT, Spec
from pellucid.engines.cpu.program import STORED, TABLE_BLOCK, Program, Slot
from pellucid.engines.cpu.target import Target, host
from pellucid.language import Expression, Interval, bounds, walk
from pellucid.problem import Problem
from pellucid.readouts import (
    ColumnReadout,
    Entropy,
    Expect,
    LogSumExp,
    MaxScore,
    Pooled,
    Readout,
    Received,
    RowReadout,
    TopK,
    mass_on_first,
)
from pellucid.readouts.base import Rows
from pellucid.result import Result
from pellucid.softmax import Merge, Softmax

MOST_DIM = 256
MOST_SLOT_DIMS = 4
MOST_TOP = 128
MOST_DECODE_ROWS = 16
LEAST_DECODE_KEYS = 64
LEAST_DECODE_RANGE = 1024
DECODE_TASKS = 8
TASKS_A_THREAD = 4
RANGES = 8  # ranges of queries that have column sums of their own


def covers(problem: Problem) -> bool:
    """Whether this engine runs `problem`; what it does not run, the portable engine does."""
    query = problem.query
    return (
        query.device.type == "cpu"
        and not problem.dropout_p
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in problem.differentiable))
        and 1 <= query.shape[-1] <= MOST_DIM
        and 1 <= problem.value.shape[-1] <= MOST_DIM
        and torch.Size(problem.rows).numel() > 0
        and problem.k_len > 0
        and all(_readable(readout) for readout in problem.readouts)
        and all(_storable(node) for node in walk(*_roots(problem).values()))
        and (host().half or query.dtype != torch.float16)
    )


def run(problem: Problem) -> Result:
    """Attention and its readouts, without gradients."""
    program = _program(problem)
    spec = _spec(problem, program)
    output, made = (_decoded if _is_decode(problem) else _forwarded)(problem, program, spec)
    if not spec.rows_out:
        return Result(output, output.new_empty(0), {})
    rows = made.rows(problem)
    lse = rows.whole.lse
    readings = made.readings(problem, rows) | _columns(problem, lse)
    return Result(output, lse, {readout.name: readings[readout.name] for readout in problem.readouts})


def _forwarded(problem: Problem, program: Program, spec: Spec) -> tuple[Tensor, _RowState]:
    output = torch.empty(*problem.rows, spec.value_dim, dtype=problem.query.dtype)
    made = _RowState.empty(problem, spec)
    _call(problem, Forward, program, spec, made.arguments(), output)
    return output, made


def _is_decode(problem: Problem) -> bool:
    """Whether so few rows share each key that packing keys would not pay."""
    group = _group(problem.heads, problem.key)
    same = group == _group(problem.heads, problem.value)
    return same and problem.q_len * group <= MOST_DECODE_ROWS and problem.k_len >= LEAST_DECODE_KEYS


def _decoded(problem: Problem, program: Program, spec: Spec) -> tuple[Tensor, _RowState]:
    """As `_forwarded`, the keys of a head shared among threads where there are few heads."""
    spec = replace(spec, pairs=False)  # reading is the cost, and pairs want packing
    group = _group(problem.heads, problem.key)
    pairs = torch.Size(problem.rows[:-1]).numel() // group
    # Not by the number of threads: it would change the last bits of the result.
    wanted = -(-DECODE_TASKS // pairs)
    keys = max(LEAST_DECODE_RANGE, -(-problem.k_len // (wanted * KEYS)) * KEYS)
    ranges = -(-problem.k_len // keys)
    if ranges == 1:
        spec = replace(spec, group=group, queries=problem.q_len)
    else:  # the sink is merged with the whole, not with each part
        spec = replace(spec, group=group, queries=problem.q_len, partial=True, rows_out=True, sinks=False)
    dtype = problem.dtype if spec.partial else problem.query.dtype
    output = torch.empty(ranges, *problem.rows, spec.value_dim, dtype=dtype)
    made = _RowState.empty(problem, spec, ranges)
    own = made.arguments() | {"keys_a_range": keys, "output_range": output[0].numel()}
    _call(problem, Decode, program, spec, own | {"pairs": pairs, "tasks": pairs * ranges}, output[0])
    if ranges == 1:
        return output[0], made.part(0)
    return _merged(problem, output, made)


def _merged(problem: Problem, outputs: Tensor, made: _RowState) -> tuple[Tensor, _RowState]:
    """The parts over different ranges of keys as one, by the merge of the online softmax and of each readout."""
    whole, output = made.part(0), outputs[0]
    for part in range(1, len(outputs)):
        whole, output = whole.merged(problem, output, made.part(part), outputs[part])
    share = whole.rows(problem).factor * whole.state[1]  # less than 1 where a sink takes weight
    return (output * share[..., None]).to(problem.query.dtype), whole


def ir_of(problem: Problem, target: Target | None = None) -> str:
    """The LLVM IR of the forward kernel that would run `problem`, for reading."""
    return str(_module(problem, target))


def assembly_of(problem: Problem, target: Target | None = None) -> str:
    """The machine code of the forward kernel that would run `problem`, as text, for reading."""
    return compiler.assembly(_module(problem, target), target or host())


def _module(problem: Problem, target: Target | None) -> ir.Module:
    program = _program(problem)
    spec = _spec(problem, program, target)
    module = ir.Module(Forward.__name__)
    module.triple = spec.target.triple
    emit(module, Forward, spec, program)
    return module


def emit(module: ir.Module, kernel: type[Kernel], spec: Spec, program: Program) -> None:
    """Write a kernel, `void name(int64 begin, int64 end, int64 *arguments)`, into a module."""
    signature = ir.FunctionType(ir.VoidType(), [I64, I64, POINTER])
    kernel(Code(ir.Function(module, signature, kernel.__name__.lower())), spec, program).run()


# What the kernel is compiled for.


def _roots(problem: Problem) -> dict[str, Expression]:
    expects = [r.expression for r in problem.readouts if isinstance(r, Expect)]
    return {"score": problem.score, "mask": problem.mask} | {f"expect{i}": e for i, e in enumerate(expects)}


def _program(problem: Problem) -> Program:
    roots = _roots(problem)
    return Program(roots, _slots(problem, roots))


def _readable(readout: Readout) -> bool:
    if isinstance(readout, TopK):
        return readout.k <= MOST_TOP
    return type(readout) in (Entropy, Expect, LogSumExp, MaxScore, Received, Pooled)


def _spec(problem: Problem, program: Program, target: Target | None = None) -> Spec:
    target = target or host()
    size = 8 if problem.dtype == torch.float64 else 4
    return Spec(
        target=target,
        dtype=_name(problem.query),
        head_dim=problem.query.shape[-1],
        value_dim=problem.value.shape[-1],
        vectors=min(target.tile_vectors, -(-problem.k_len // target.lanes(size))),
        sinks=problem.sinks is not None,
        rows_out=bool(problem.readouts),
        integer_bits=32 if _fits_32_bits(problem, program) else 64,
        entropy=any(isinstance(r, Entropy) for r in problem.readouts),
        expects=len(program.roots) - 2,
        pairs=problem.query.dtype == torch.bfloat16 and target.bf16_dot,
        topk=next((r.k for r in problem.readouts if isinstance(r, TopK)), 0),
    )


def _slots(problem: Problem, roots: dict[str, Expression]) -> dict[int, Slot]:
    slots: dict[int, Slot] = {}
    for node in walk(*roots.values()):
        if node.op == "load" and id(node.value) not in slots:
            tensor = node.value
            slots[id(tensor)] = Slot(
                number=len(slots),
                dtype=_name(tensor),
                ndim=tensor.ndim,
                contiguous=tensor.ndim > 0 and tensor.stride(-1) == 1,
                whole=tensor.ndim > 0 and tensor.shape[-1] >= problem.k_len,
                table=_tabulated(node),
            )
    return slots


def _storable(node: Expression) -> bool:
    if node.op != "load":
        return True
    tensor: Tensor = node.value
    return (
        tensor.ndim <= MOST_SLOT_DIMS
        and tensor.numel() > 0
        and _name(tensor) in STORED
        and (host().half or tensor.dtype != torch.float16)
    )


def _tabulated(load: Expression) -> bool:
    """Whether block minima of the captured tensor help to skip tiles: a row of integers for each batch and head."""
    tensor: Tensor = load.value
    rows_fixed = all(n.value not in ("q", "k") for index in load.args[:-1] for n in walk(index) if n.op == "input")
    return tensor.ndim > 0 and load.kind != "float" and rows_fixed and tensor.numel() <= 1 << 22


def _fits_32_bits(problem: Problem, program: Program) -> bool:
    """Whether every int that the functions compute fits an int32."""
    nodes = [n for n in walk(*program.roots.values()) if n.kind == "int" and n.op != "constant"]
    if not nodes:
        return True
    places = {
        "b": Interval(0, max(torch.Size(problem.batch).numel() - 1, 0)),
        "h": Interval(0, problem.heads - 1),
        "q": Interval(0, problem.q_len - 1),
        "k": Interval(0, problem.k_len - 1),
    }
    limits = [bounds(node, places) for node in nodes]
    return all(x is not None and x.low >= -(2**31) and x.high < 2**31 for x in limits)


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# The call.


def _call(
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
    chunk = _column_chunk(problem) if kernel is Columns else _chunk(problem, pairs)
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
        "key_group": _group(problem.heads, problem.key),
        "value_group": _group(problem.heads, problem.value),
        "sinks": _address(problem.sinks, problem.dtype, kept),
    }
    for name, tensor in (("query", problem.query), ("key", problem.key), ("value", problem.value), ("output", output)):
        named |= _laid_out(name, tensor, problem, kept)
    numbers = [named.get(name, 0) for name in FIXED]
    for tensor, slot in _by_number(program):
        numbers += _slot_arguments(tensor, slot, kept)
    arguments = (ctypes.c_int64 * len(numbers))(*numbers)
    threads.run(address, ctypes.addressof(arguments), workers)


def _chunk(problem: Problem, pairs: int) -> int:
    """Queries a task: as many as keys are packed for, but enough tasks for every thread."""
    wanted = TASKS_A_THREAD * torch.get_num_threads()
    per_head = -(-wanted // pairs)
    blocks = -(-problem.q_len // ROWS)
    return min(CHUNK, max(1, -(-blocks // per_head)) * ROWS)


def _column_chunk(problem: Problem) -> int:
    """The same for any number of threads, for the sums of a range of chunks are rounded together."""
    return min(CHUNK, -(-problem.q_len // (RANGES * ROWS)) * ROWS)


def _group(heads: int, tensor: Tensor) -> int:
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


# The result.


@dataclass
class _RowState:
    """What the forward kernel writes of each row: the accumulators, and the largest scores with their keys."""

    spec: Spec
    state: Tensor  # [accumulators, *batch, heads, q_len]
    top_scores: Tensor  # [*batch, heads, q_len, k]
    top_keys: Tensor

    @classmethod
    def empty(cls, problem: Problem, spec: Spec, parts: int = 0) -> _RowState:
        """Not written yet."""
        lead = (parts, *problem.rows) if parts else problem.rows
        state = torch.empty(len(spec.accumulators) if spec.rows_out else 0, *lead, dtype=problem.dtype)
        top_scores = torch.empty(*lead, spec.topk, dtype=problem.dtype)
        return cls(spec, state, top_scores, torch.empty(*lead, spec.topk, dtype=torch.int64))

    def arguments(self) -> dict[str, int]:
        """Where the kernel writes."""
        where = {name: getattr(self, name).data_ptr() for name in ("state", "top_scores", "top_keys")}
        return where | {"state_rows": self.state[:1].numel()}

    def part(self, number: int) -> _RowState:
        """The state over one range of keys."""
        return _RowState(self.spec, self.state[:, number], self.top_scores[number], self.top_keys[number])

    def merged(
        self, problem: Problem, output: Tensor, other: _RowState, its_output: Tensor
    ) -> tuple[_RowState, Tensor]:
        """The state and output merged with another's, over later keys."""
        merge = Merge(Softmax(*self.state[:2]), Softmax(*other.state[:2]))
        whole = [*merge.whole]
        for name, mine, theirs in zip(self.spec.accumulators[2:], self.state[2:], other.state[2:], strict=True):
            readout = _ACCUMULATED["entropy" if name == "entropy" else "expect"]
            whole += readout((mine,), (theirs,), merge)
        tops = (self.top_scores, self.top_keys), (other.top_scores, other.top_keys)
        top = TopK(self.spec.topk).merge(*tops, merge) if self.spec.topk else tops[0]
        total = merge.whole.total.masked_fill(merge.whole.total == 0, 1.0)
        left = self.state[1] * merge.left_factor / total
        right = other.state[1] * merge.right_factor / total
        output = output * left[..., None] + its_output * right[..., None]
        return _RowState(self.spec, torch.stack(whole), *top), output

    def rows(self, problem: Problem) -> Rows:
        """The softmax's state of every row."""
        sink = None if problem.sinks is None else problem.sinks.detach().to(problem.dtype)[:, None]
        return Rows(Softmax(self.state[0], self.state[1]), sink)

    def readings(self, problem: Problem, rows: Rows) -> dict[str, Any]:
        """The row readouts' results: each finishes its own state."""
        own = dict(zip(self.spec.accumulators, self.state, strict=True))
        expects = (own[f"expect{i}"] for i in range(self.spec.expects))
        readings: dict[str, Any] = {}
        for readout in problem.readouts:
            if isinstance(readout, Entropy):
                readings[readout.name] = readout.finish((own["entropy"],), rows)
            elif isinstance(readout, Expect):
                readings[readout.name] = readout.finish((next(expects),), rows)
            elif isinstance(readout, TopK):
                readings[readout.name] = readout.finish((self.top_scores, self.top_keys), rows)
            elif isinstance(readout, RowReadout):
                readings[readout.name] = readout.finish((), rows)
        return readings


_ACCUMULATED = {"entropy": Entropy().merge, "expect": mass_on_first().merge}  # a merge does not depend on the function


def _columns(problem: Problem, lse: Tensor) -> dict[str, Any]:
    """The column readouts' results, from a second sweep."""
    wanted = [readout for readout in problem.readouts if isinstance(readout, ColumnReadout)]
    if not wanted:
        return {}
    whole = replace(problem, readouts=tuple(wanted))
    program = _program(whole)
    received = next((r for r in wanted if isinstance(r, Received)), None)
    pooled = next((r for r in wanted if isinstance(r, Pooled)), None)
    spec = replace(_spec(whole, program), rows_out=False, received=received is not None, pooled=pooled is not None)
    sums = {readout.name: readout.start(problem) for readout in wanted}
    partial = {name: total.new_zeros(RANGES, *total.shape) for name, total in sums.items()}
    own = {"lse": lse.data_ptr()} | {name: tensor.data_ptr() for name, tensor in partial.items()}
    if received is not None:
        chosen = range(problem.q_len)[received.queries]
        own |= {"received_first": chosen.start, "received_stop": chosen.stop, "received_step": chosen.step}
    if pooled is not None:
        rows, columns = sums[pooled.name].shape[-2:]
        query_bin, key_bin = _bins(problem.q_len, rows), _bins(problem.k_len, columns)
        own |= {"query_bin": query_bin.data_ptr(), "key_bin": key_bin.data_ptr()}
        own |= {"query_bins": rows, "key_bins": columns}
    output = problem.query.new_empty(*problem.batch, problem.heads, 1, 1)
    _call(problem, Columns, program, spec, own, output)
    return {readout.name: readout.finish(partial[readout.name].sum(0), problem) for readout in wanted}


def _bins(length: int, bins: int) -> Tensor:
    return (torch.arange(length) * bins // length).to(torch.int32)

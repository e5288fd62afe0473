"""What a kernel is compiled for, read off a problem: its program (the user's functions) and its specification."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pellucid.engines.cpu.expression.program import Program, Slot
from pellucid.engines.cpu.layout import KEYS, Spec
from pellucid.engines.cpu.machine.target import Target, host
from pellucid.engines.cpu.stages.stage import Stage
from pellucid.language import Expression, Interval, bounds_of_all, walk
from pellucid.problem import Problem

MOST_TABULATED = 1 << 22
FEW_READ = 1 << 14  # numbers of a captured tensor that take no time to read,
PLACES_A_READ = 16  # as those do of which each serves so many places of the matrix
SPLIT = {torch.bfloat16: 1, torch.float16: 2, torch.float32: 3}  # bfloat16 numbers that hold one between them
LEAST_SPLIT = (32, 80, 80)  # head_dim, queries and keys


def program_of(problem: Problem, functions: dict[str, Expression] | None = None) -> Program:
    """The expressions that a kernel computes, score, mask and the readouts' functions, captured tensors numbered."""
    return Program({"score": problem.score, "mask": problem.mask} | (functions or {}), _slots(problem))


def spec_of(problem: Problem, program: Program, stages: tuple[Stage, ...] = (), target: Target | None = None) -> Spec:
    """What the kernel for `problem` is compiled for.

    Args:
        problem: the call.
        program: its functions.
        stages: of its readouts, as the kernel has them.
        target: the processor, this machine's if None.

    """
    target = target or host()
    size = 8 if problem.dtype == torch.float64 else 4
    vectors = min(target.tile_vectors, -(-problem.k_len // target.lanes(size)))
    split = _split(problem) if target.bf16_tiles else 0
    matrix = split > 0
    vectors += vectors % 2 if matrix else 0
    return Spec(
        target=target,
        dtype=dtype_name(problem.query),
        head_dim=problem.query.shape[-1],
        value_dim=problem.value.shape[-1],
        vectors=vectors,
        # Without readouts a second softmax is soon compiled, and kernels that have none are 2 to 5 % slower.
        whole=bool(problem.readouts) and problem.k_len > 0 and problem.k_len % (vectors * target.lanes(size)) == 0,
        sinks=problem.sinks is not None,
        rows_out=bool(problem.readouts),
        integer_bits=32 if _fits_32_bits(problem, program) else 64,
        dots=matrix or (problem.query.dtype == torch.bfloat16 and target.dot_pays),
        matrix=matrix,
        split=split if matrix else 1,
        stages=stages,
        dropout=problem.dropout_p > 0.0,
    )


def _split(problem: Problem) -> int:
    """How many numbers of bfloat16 stand for one on matrix tiles; 0 where those are no faster."""
    split = SPLIT.get(problem.query.dtype, 0)
    shape = (problem.query.shape[-1], problem.q_len, problem.k_len)
    return split if split == 1 or all(own >= least for own, least in zip(shape, LEAST_SPLIT, strict=True)) else 0


def _slots(problem: Problem) -> dict[int, Slot]:
    slots: dict[int, Slot] = {}
    for node in problem.loads:
        if id(node.value) not in slots:
            tensor = node.value
            slots[id(tensor)] = Slot(
                number=len(slots),
                dtype=dtype_name(tensor),
                ndim=tensor.ndim,
                contiguous=tensor.ndim > 0 and tensor.stride(-1) == 1,
                whole=tensor.ndim > 0 and tensor.shape[-1] >= problem.k_len,
                table=_tabulated(node),
            )
    return slots


def _tabulated(load: Expression) -> bool:
    """Whether block minima of the captured tensor help to skip tiles: a row of integers for each batch and head."""
    tensor: Tensor = load.value
    rows_fixed = all(n.value not in ("q", "k") for index in load.args[:-1] for n in walk(index) if n.op == "input")
    return (
        tensor.ndim > 0
        and load.kind != "float"
        and rows_fixed
        and tensor.shape[-1] > KEYS
        and tensor.numel() <= MOST_TABULATED
    )


def magnitude(tensor: Tensor, problem: Problem) -> int:
    """The bits that a captured tensor's ints take beside the sign; 0 for bools and floats.

    It is all that a kernel may depend on of a captured tensor's numbers, and a part of what a plan is found by. Where
    reading them would take time, every number of the dtype is reckoned with.
    """
    if tensor.dtype == torch.bool or tensor.is_floating_point():
        return 0
    whole = torch.iinfo(tensor.dtype)
    places = math.prod(problem.rows) * problem.k_len
    if whole.bits < 32 or tensor.numel() > max(FEW_READ, places // PLACES_A_READ):
        return whole.max.bit_length()
    least, most = tensor.detach().aminmax()
    return max((~number if number < 0 else number).bit_length() for number in (int(least), int(most)))


def _fits_32_bits(problem: Problem, program: Program) -> bool:
    """Whether every int that the functions compute fits an int32, whatever captured ints of their magnitude are."""
    nodes = [n for n in walk(*program.roots.values()) if n.kind == "int"]
    if not nodes:
        return True

    def loaded(tensor: Tensor, indices: list[Interval | None]) -> Interval | None:
        if tensor.dtype == torch.bool or tensor.is_floating_point():
            return None
        bits = magnitude(tensor, problem)
        return Interval(-(1 << bits), (1 << bits) - 1)

    places = {
        "b": Interval(0, max(torch.Size(problem.batch).numel() - 1, 0)),
        "h": Interval(0, problem.heads - 1),
        "q": Interval(0, problem.q_len - 1),
        "k": Interval(0, problem.k_len - 1),
    }
    known = bounds_of_all(*program.roots.values(), places=places, loaded=loaded)
    limits = [known[id(node)] for node in nodes]
    return all(x is not None and x.low >= -(2**31) and x.high < 2**31 for x in limits)


def dtype_name(tensor: Tensor) -> str:
    """A tensor's dtype as kernels call it: "float32"."""
    return str(tensor.dtype).removeprefix("torch.")

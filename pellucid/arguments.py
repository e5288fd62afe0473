"""The arguments of `attention` and `observe`: checked, each error naming its argument, and described as a Problem."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid import dropout
from pellucid.language import INPUTS, SCORE, TRUE, Expression, TraceError, constant, load, operation, trace, walk
from pellucid.problem import Problem, is_autocast
from pellucid.readouts import Entropy, LogSumExp, MaxScore, Readout

INDEX_NAMES = {"b": "b", "h": "h", "q": "q_idx", "k": "kv_idx"}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CAUSAL = operation("ge", INPUTS["q"], INPUTS["k"])
Function = Callable[..., Any]


class Arguments(NamedTuple):
    """The arguments of `observe`, in its order and with its defaults; `attention` reads nothing."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False
    score_mod: Function | None = None
    mask_mod: Function | None = None
    sinks: Tensor | None = None
    readouts: tuple[Readout, ...] = ()  # checked already


def asked(*arguments: Any, readouts: Iterable[Readout] | None = None, **named: Any) -> Arguments:
    """The arguments of a call of `observe`, given in its way; nothing is read if `readouts` is None.

    Raises TypeError and ValueError as `observe` does of readouts.
    """
    chosen = () if readouts is None else checked_readouts(readouts)
    try:
        return Arguments(*arguments, **(named | {"readouts": chosen}))
    except TypeError as error:
        raise TypeError(str(error).replace("Arguments.__new__()", "a call of observe")) from None


def describe(call: Arguments) -> tuple[Problem, Callable[[Tensor], Tensor]]:
    """The problem that a call poses, its arguments checked, and what gives its results the inputs' rank again.

    Where dropout_p is not 0, a seed is drawn.

    Returns:
        The problem, whose tensors have a heads dimension, and a function of a tensor that takes it away where query,
        key and value had none.

    Raises:
        TypeError: as `attention`.
        ValueError: as `attention`.

    """
    query, key, value = map(as_autocast, call[:3])
    check_tensors(query, key, value)
    flat = max(query.ndim, key.ndim, value.ndim) == 2
    _check_flags(call)
    query, key, value = (t if t.ndim > 2 else t[None] for t in (query, key, value))
    batch, heads = _leading(query, key, value, call.enable_gqa)
    dropout_p, scale = _checked_numbers(call)
    scores_batch, scores_heads = _leading(query, key, key, call.enable_gqa)
    scores_shape = (*scores_batch, scores_heads, query.shape[-2], key.shape[-2])[flat:]
    score, mask = _functions(call, query.dtype, scores_shape, batch)
    _check_sinks(call.sinks, heads)
    problem = Problem(
        query, key, value, batch, heads, scale, score, mask, call.sinks,
        dropout_p, dropout.seed() if dropout_p else 0, call.readouts,
    )  # fmt: skip
    for readout in call.readouts:
        readout.check(problem)
    check_captured(problem)
    return problem, _without_heads if flat else _as_it_is


def _check_flags(call: Arguments) -> None:
    for name, flag in (("is_causal", call.is_causal), ("enable_gqa", call.enable_gqa)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name}: a bool is needed, got {type(flag).__name__}")
    if call.enable_gqa and min(tensor.ndim for tensor in call[:3]) < 3:
        raise ValueError(f"enable_gqa: needs a heads dimension in query, key and value ({_shapes(*call[:3])})")


def _checked_numbers(call: Arguments) -> tuple[float, float]:
    """Dropout's probability, and what the scores are multiplied by."""
    dropout_p = _number("dropout_p", call.dropout_p)
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"dropout_p: a probability from 0 to 1 is needed, got {dropout_p}")
    if call.scale is None:
        return dropout_p, max(call.query.shape[-1], 1) ** -0.5
    return dropout_p, _number("scale", call.scale)


def _functions(
    call: Arguments, dtype: torch.dtype, shape: tuple[int, ...], batch: tuple[int, ...]
) -> tuple[Expression, Expression]:
    """The score and the mask as expressions: score_mod, mask_mod, attn_mask and is_causal together."""
    score = SCORE if call.score_mod is None else _score_expression(call.score_mod)
    score, mask = _with_attn_mask(score, call.attn_mask, dtype, shape, batch)
    if call.is_causal:
        mask = operation("and", CAUSAL, mask)
    if call.mask_mod is not None:
        mask = operation("and", mask, _mask_expression(call.mask_mod))
    return score, mask


def _without_heads(tensor: Tensor) -> Tensor:
    return tensor.squeeze(0)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _number(name: str, value: Any) -> float:
    """`value` as a Python number; a tensor of no dimensions is one too."""
    if isinstance(value, Real) or (isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex()):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name}: a number within float64 is needed, got one beyond it") from None
    raise TypeError(f"{name}: a number is needed, got {type(value).__name__} {value!r}")


def as_autocast(tensor: Tensor) -> Tensor:
    """What SDPA makes of an input inside torch.autocast: everything but float64 in its dtype."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in DTYPES[1:]:
        return tensor
    kind = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(kind)) if is_autocast(kind) else tensor


def check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Check each alone and that they fit one another, but for their leading dimensions. Raises as `attention`."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: a tensor is needed, got {type(tensor).__name__}")
        _check_dense(name, tensor)
        if tensor.dtype not in DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise TypeError(f"{name}: one of {known} is needed, got {tensor.dtype}")
        if tensor.ndim < 2:
            raise ValueError(f"{name}: at least 2 dimensions [length, dim] are needed, got {list(tensor.shape)}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name}: query's dtype {query.dtype} is needed, got {tensor.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name}: query's device {query.device} is needed, got {tensor.device}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"key: its head_dim must be query's ({_shapes(query, key)})")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"value: its length must be key's ({_shapes(key=key, value=value)})")


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_nested:
        raise TypeError(f"{name}: a dense tensor is needed, got a {'nested' if tensor.is_nested else 'sparse'} one")


def _leading(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> tuple[tuple[int, ...], int]:
    """The batch dimensions and the number of heads, broadcast."""
    batch = _broadcast(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    if batch is None:
        raise ValueError(f"query, key, value: their batch dimensions must broadcast ({_shapes(query, key, value)})")
    if enable_gqa:
        for name, tensor in (("key", key), ("value", value)):
            own = tensor.shape[-3]
            if own == 0 or query.shape[-3] % own:
                shapes = _shapes(query, key, value)
                raise ValueError(f"{name}: its {own} heads must divide query's {query.shape[-3]} ({shapes})")
        return batch, query.shape[-3]
    heads = _broadcast(query.shape[-3:-2], key.shape[-3:-2], value.shape[-3:-2])
    if heads is None:
        shapes = _shapes(query, key, value)
        raise ValueError(f"query, key, value: their heads must be equal or 1 ({shapes}); or set enable_gqa")
    return batch, heads[0]


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that all broadcast to, if there is one."""
    if all(shape == shapes[0] for shape in shapes):  # torch's own way takes 6 microseconds
        return tuple(shapes[0])
    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        return None


def _with_attn_mask(
    score: Expression, attn_mask: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...], batch: tuple[int, ...]
) -> tuple[Expression, Expression]:
    """The score and the mask, with attn_mask in one of them: as a function that indexes it in place."""
    if attn_mask is None:
        return score, TRUE
    if not isinstance(attn_mask, Tensor):
        raise TypeError(f"attn_mask: a tensor is needed, got {type(attn_mask).__name__}")
    if (causal := _causal_bias(attn_mask, shape)) is not None:
        return score, causal
    if attn_mask.dtype not in (torch.bool, torch.float32, dtype):
        raise TypeError(f"attn_mask: bool, float32 or query's {dtype} is needed, got {attn_mask.dtype}")
    missing = len(shape) - attn_mask.ndim
    # Compared one by one: torch.compile takes a length that may change for one that is in no tuple.
    if missing < 0 or any(own != 1 and own != size for own, size in zip(attn_mask.shape, shape[missing:], strict=True)):
        raise ValueError(f"attn_mask: must broadcast to {list(shape)}, got {list(attn_mask.shape)}")
    place = [*_batch_indices(batch), INPUTS["h"], INPUTS["q"], INPUTS["k"]]
    indices = zip(attn_mask.shape, place[len(place) - attn_mask.ndim :], strict=True)
    element = load(attn_mask, tuple(constant(0) if size == 1 else index for size, index in indices))
    return (score, element) if attn_mask.dtype == torch.bool else (operation("add", score, element), TRUE)


def _causal_bias(attn_mask: Tensor, shape: tuple[int, ...]) -> Expression | None:
    """What a CausalBias of torch.nn.attention.bias means: it is a tensor with nothing in it."""
    module = sys.modules.get("torch.nn.attention.bias")
    if module is None or not isinstance(attn_mask, module.CausalBias):
        return None
    lengths = (attn_mask.seq_len_q, attn_mask.seq_len_kv)
    if lengths != shape[-2:]:
        wanted, got = (f"{q_len} x {k_len}" for q_len, k_len in (shape[-2:], lengths))
        raise ValueError(f"attn_mask: a CausalBias of {wanted} is needed, got {got}")
    offset = lengths[1] - lengths[0] if attn_mask.variant == module.CausalVariant.LOWER_RIGHT else 0
    return operation("ge", operation("add", INPUTS["q"], constant(offset)), INPUTS["k"])


def _batch_indices(batch: tuple[int, ...]) -> list[Expression]:
    """The index along each batch dimension that the flattened index b stands for."""
    indices, stride = [], torch.Size(batch).numel()
    for dimension, size in enumerate(batch):
        stride //= max(size, 1)
        index = operation("floordiv", INPUTS["b"], constant(max(stride, 1)))
        indices.append(operation("mod", index, constant(max(size, 1))) if dimension else index)
    return indices


def _score_expression(score_mod: Function) -> Expression:
    score = trace(score_mod, "score_mod", ("score", "b", "h", "q", "k"))
    if score.kind == "bool":
        raise TraceError("score_mod: it must return a score, got a bool; give a mask as mask_mod")
    return operation("add", score, constant(0.0)) if score.kind == "int" else score


def _mask_expression(mask_mod: Function) -> Expression:
    mask = trace(mask_mod, "mask_mod", ("b", "h", "q", "k"))
    if mask.kind != "bool":
        raise TraceError(f"mask_mod: it must return a bool, got a {mask.kind}")
    return mask


def _check_sinks(sinks: Tensor | None, heads: int) -> None:
    if sinks is None:
        return
    if not isinstance(sinks, Tensor) or not sinks.is_floating_point():
        got = sinks.dtype if isinstance(sinks, Tensor) else type(sinks).__name__
        raise TypeError(f"sinks: a float tensor is needed, got {got}")
    if tuple(sinks.shape) != (heads,):
        raise ValueError(f"sinks: one logit a head, [{heads}], is needed, got {list(sinks.shape)}")


def check_captured(problem: Problem) -> None:
    """Raise TypeError or ValueError for a captured tensor that does not fit a problem."""
    device = problem.query.device
    for tensor in (*(node.value for node in problem.loads), *(() if problem.sinks is None else (problem.sinks,))):
        _check_dense("attn_mask, sinks or a captured tensor", tensor)
        if tensor.device != device and (tensor.ndim or not tensor.is_cpu):  # as torch mixes devices
            raise ValueError(
                f"attn_mask, sinks or a captured tensor {list(tensor.shape)} is on {tensor.device}, query on {device}"
            )
    lengths = {"b": math.prod(problem.batch), "h": problem.heads, "q": problem.q_len, "k": problem.k_len}
    _check_indices((problem.score, problem.mask), lengths)
    for readout in problem.readouts:
        _check_indices(readout.expressions, lengths | readout.lengths)


def _check_indices(functions: Iterable[Expression], lengths: dict[str, int]) -> None:
    """Raise ValueError for a captured tensor that is shorter than an index of these lengths goes."""
    for tensor, indices in ((node.value, node.args) for node in walk(*functions) if node.op == "load"):
        for size, index in zip(tensor.shape, indices, strict=True):
            if index.op == "input" and size < lengths[index.value]:
                raise ValueError(
                    f"a captured tensor {list(tensor.shape)} is indexed by {INDEX_NAMES[index.value]}, of which there "
                    f"are {lengths[index.value]}"
                )


def checked_readouts(readouts: Iterable[Readout] | None, holder: type = object) -> tuple[Readout, ...]:
    """The readouts that `observe` was asked for, of which `holder` will give the results.

    Raises TypeError and ValueError as `observe` does.
    """
    if readouts is None:
        return (LogSumExp(), Entropy(), MaxScore())
    if isinstance(readouts, Readout | str) or not isinstance(readouts, Iterable):
        raise TypeError(f"readouts: a list of readouts is needed, got {readouts!r}")
    chosen = tuple(readouts) or (LogSumExp(),)
    check_names(chosen, holder)
    return chosen


def check_names(readouts: tuple[Any, ...], holder: type) -> None:
    """Check that each is a readout, with a name that neither another one has nor `holder`, which gives the results.

    Raises TypeError and ValueError as `observe` does.
    """
    for readout in readouts:
        if not isinstance(readout, Readout):
            raise TypeError(f"readouts: each must be a readout such as pellucid.Entropy(), got {readout!r}")
    names = [readout.name for readout in readouts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"readouts: more than one is named {', '.join(twice)}; give others another `name`")
    # Annotations first: a class without any gets empty ones when it is asked, which dir then tells, and torch.compile,
    # which may trace this twice, must find the same names again.
    taken = {*getattr(holder, "__annotations__", ()), *dir(holder)}
    for readout in readouts:
        if readout.name in taken or (readout.name == "lse" and not readout.is_lse):
            kind = type(readout).__name__
            raise ValueError(f"readouts: {kind} cannot be named {readout.name!r}: {holder.__name__} has that already")


def _shapes(query: Tensor | None = None, key: Tensor | None = None, value: Tensor | None = None) -> str:
    named = (("query", query), ("key", key), ("value", value))
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in named if tensor is not None)

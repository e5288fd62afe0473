"""From a user's function to an expression: the function is called once, with symbols that record what is done to them.

Python's operators are recorded by the symbol itself, `torch.*` functions through `__torch_function__`, and the indexing
of a captured tensor by a symbol (which torch offers to nobody but a mode) through a TorchFunctionMode. Operations on
captured tensors alone run as usual while tracing, so their results are captured instead.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from pellucid.language.expression import INPUTS, Expression, Kind, Number, cast, constant, load, operation


class TraceError(TypeError):
    """A score_mod, mask_mod or Expect function does what cannot be recorded; the message says what and the way out."""


CONTROL_FLOW = (
    "if, while, and, or, not, min(), max(), chained comparisons and conversions to a number depend on the value; "
    "use torch.where, &, |, ~, torch.minimum and torch.maximum"
)


def trace(function: Callable[..., Any], argument: str, inputs: tuple[str, ...]) -> Expression:
    """The expression that `function` computes.

    Args:
        function: called once with one symbol for each of `inputs`.
        argument: what the caller calls the function ("score_mod"), for error messages.
        inputs: names from `expression.INPUTS`, in the order of the function's parameters.

    Raises:
        TraceError: the function branches on an argument, or uses an operation that the language does not have.

    """
    label = f"{argument} {getattr(function, '__name__', type(function).__name__)!r}"
    if not callable(function):
        raise TraceError(f"{argument}: expected a function of ({', '.join(inputs)}), got {type(function).__name__}")
    _check_parameters(function, label, inputs)
    try:
        with _Recording():
            result = function(*(Symbol(INPUTS[name]) for name in inputs))
    except _Unsupported as error:
        raise TraceError(f"{label}: {error}") from None
    try:
        return _expression(result)
    except _Unsupported:
        raise TraceError(f"{label}: it must return one score or one bool, got {_describe(result)}") from None


class Symbol:
    """A value that is not known yet; what is done to it becomes an expression."""

    __slots__ = ("expression",)

    def __init__(self, expression: Expression) -> None:
        self.expression = expression

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _record(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name in PROPERTIES:
            return PROPERTIES[name](self)
        if name in FUNCTIONS and not name.startswith("_"):
            return partial(FUNCTIONS[name], self)
        if name.startswith("__"):
            raise AttributeError(name)
        raise _Unsupported(f"the attribute or operation '{name}' is not in the score language; {_known()}")

    def __getitem__(self, index: Any) -> NoReturn:
        raise _Unsupported("a score or an index is one number and cannot be indexed")

    def _no_number(self, *_: Any) -> NoReturn:
        raise _Unsupported(f"it branches on its argument. {CONTROL_FLOW}")

    def _no_sequence(self, *_: Any) -> NoReturn:
        raise _Unsupported("a score or an index is one number, not a sequence")

    __bool__ = __int__ = __float__ = __complex__ = _no_number
    __len__ = __iter__ = __contains__ = _no_sequence
    __hash__ = object.__hash__

    def __index__(self) -> NoReturn:
        raise _Unsupported("it is used as a Python index. Index a torch tensor instead of a list or an array")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise _Unsupported("it is given to numpy. Use the torch function of the same name")


class _Unsupported(Exception):  # noqa: N818 - it never leaves this module
    pass


class _Row:
    """A captured tensor indexed by fewer symbols than it has dimensions: waits for the rest."""

    __slots__ = ("indices", "tensor")

    def __init__(self, tensor: Tensor, indices: tuple[Expression, ...]) -> None:
        self.tensor, self.indices = tensor, indices

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        row = next(a for a in args if isinstance(a, _Row))
        raise _Unsupported(
            f"a captured tensor of shape {list(row.tensor.shape)} is indexed by {len(row.indices)} of its "
            f"{row.tensor.ndim} dimensions; index all of them"
        )

    def __getitem__(self, index: Any) -> Symbol | _Row:
        return _index(self.tensor, index, self.indices)


class _Recording(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__getitem__ and _has_symbol(args[1]):
            return _index(args[0], args[1])
        if any(_has_symbol(a) for a in (*args, *(kwargs or {}).values())):
            return _record(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _record(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property such as Tensor.dtype
        raise _Unsupported(f"'{resolve_name(func)}' is not in the score language; {_known()}")
    if name not in FUNCTIONS:
        raise _Unsupported(f"the operation '{resolve_name(func) or name}' is not in the score language; {_known()}")
    try:
        return FUNCTIONS[name](*args, **kwargs)
    except TypeError as error:
        raise _Unsupported(f"the operation '{resolve_name(func) or name}' cannot be used like this: {error}") from None


def _has_symbol(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_has_symbol(v) for v in value)
    return isinstance(value, Symbol | _Row)


def _index(tensor: Tensor, index: Any, before: tuple[Expression, ...] = ()) -> Symbol | _Row:
    indices = before + tuple(_expression(i) for i in (index if isinstance(index, tuple) else (index,)))
    if any(i.kind != "int" for i in indices):
        raise _Unsupported("a captured tensor is indexed by a float or a bool; convert the index with .to(torch.long)")
    if len(indices) > tensor.ndim:
        raise _Unsupported(f"a captured tensor of shape {list(tensor.shape)} is indexed by {len(indices)} dimensions")
    return Symbol(load(tensor, indices)) if len(indices) == tensor.ndim else _Row(tensor, indices)


def _expression(value: Any) -> Expression:
    if isinstance(value, Symbol):
        return value.expression
    if isinstance(value, bool | int | float):
        return constant(value)
    if isinstance(value, Tensor) and value.ndim == 0:
        return load(value, ())
    if isinstance(value, Tensor):
        raise _Unsupported(f"a captured tensor of shape {list(value.shape)} is used whole; index it: tensor[h, q_idx]")
    raise _Unsupported(f"it uses {_describe(value)}, which is neither a number nor a tensor")


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"a {type(value).__name__}"


def _check_parameters(function: Callable[..., Any], label: str, inputs: tuple[str, ...]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in functions have none
        return
    try:
        signature.bind(*inputs)
    except TypeError:
        named = ", ".join({"q": "q_idx", "k": "kv_idx"}.get(name, name) for name in inputs)
        raise TraceError(f"{label}: expected {len(inputs)} parameters ({named}), got {signature}") from None


# What a symbol understands. Each function below takes symbols, numbers and 0-dimensional tensors and gives a symbol.


def _apply(op: str) -> Callable[..., Symbol]:
    def apply(*args: Any) -> Symbol:
        try:
            return Symbol(operation(op, *map(_expression, args)))
        except TypeError as error:
            raise _Unsupported(str(error)) from None

    return apply


def _keyword(function: Callable[..., Symbol], *names: str) -> Callable[..., Symbol]:
    """`function`, its arguments also by torch's keywords."""
    signature = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names])
    return lambda *args, **kwargs: function(*signature.bind(*args, **kwargs).args)


def _reflected(function: Callable[..., Symbol]) -> Callable[..., Symbol]:
    return lambda a, b: function(b, a)


def _scaled(op: str) -> Callable[..., Symbol]:
    apply, multiply = _apply(op), _apply("mul")
    return lambda input, other, *, alpha=1: apply(input, other if alpha == 1 else multiply(other, alpha))


def _div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Symbol:
    if rounding_mode == "trunc":
        quotient = _apply("trunc")(_apply("truediv")(input, other))
        both_int = all(_expression(x).kind != "float" for x in (input, other))
        return _to(quotient, torch.int64) if both_int else quotient
    return _apply("floordiv" if rounding_mode == "floor" else "truediv")(input, other)


def _pow(input: Any, exponent: Any) -> Symbol:
    base, power = _expression(input), _expression(exponent)
    if base.op == "constant" and base.value > 0:
        return _apply("exp2")(_apply("mul")(exponent, math.log2(base.value)))
    if power.op == "constant" and power.value == 0.5:
        return _apply("sqrt")(input)
    if power.op == "constant" and float(power.value).is_integer() and 0 <= abs(power.value) <= 16:
        product: Any = 1 if base.kind != "float" else 1.0
        for _ in range(abs(int(power.value))):
            product = _apply("mul")(product, input)
        return _apply("truediv")(1.0, product) if power.value < 0 else Symbol(_expression(product))
    raise _Unsupported("pow: one side must be a constant (a positive base, or an exponent 0.5 or an integer up to 16)")


def _clamp(input: Any, min: Any = None, max: Any = None) -> Symbol:
    low = Symbol(_expression(input)) if min is None else _apply("maximum")(input, min)
    return low if max is None else _apply("minimum")(low, max)


def _logical(op: str) -> Callable[..., Symbol]:
    apply = _apply(op)
    return lambda *args: apply(*(Symbol(cast(_expression(a), "bool")) for a in args))


def _where(condition: Any, input: Any, other: Any) -> Symbol:
    return _apply("where")(condition, input, other)


def _masked_fill(input: Any, mask: Any, value: Any) -> Symbol:
    return _apply("where")(mask, value, input)


def _kind_of(dtype: torch.dtype) -> Kind:
    if dtype == torch.bool:
        return "bool"
    if dtype.is_floating_point:
        return "float"
    if dtype.is_complex:
        raise _Unsupported("complex numbers are not in the score language")
    return "int"


def _to(input: Any, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Symbol:
    wanted = next((a for a in args if isinstance(a, torch.dtype)), dtype)
    value = _expression(input)
    return Symbol(value if wanted is None else cast(value, _kind_of(wanted)))


def _type_as(input: Any, other: Any) -> Symbol:
    return Symbol(cast(_expression(input), _expression(other).kind))


def _filled(value: Number | None, in_args: bool = False) -> Callable[..., Symbol]:
    """Torch's zeros_like, new_ones and their like, for one number."""

    def fill(input: Any, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Symbol:
        number = (kwargs.get("fill_value", args[-1] if args else None)) if in_args else value
        kind = _expression(input).kind if dtype is None else _kind_of(dtype)
        return Symbol(cast(_expression(number), kind))

    return fill


def _identity(input: Any, *_: Any, **__: Any) -> Symbol:
    return Symbol(_expression(input))


def _sign(input: Any) -> Symbol:
    zero: Number = 0.0 if _expression(input).kind == "float" else 0
    one = type(zero)(1)
    return _where(_apply("gt")(input, zero), one, _where(_apply("lt")(input, zero), -one, zero))


def _isfinite(input: Any) -> Symbol:
    return _apply("lt")(_apply("abs")(input), math.inf)


UNARY = ("neg", "abs", "exp", "exp2", "log", "log2", "tanh", "sigmoid", "sqrt", "floor", "ceil", "round", "trunc")
BINARY = ("mul", "minimum", "maximum", "eq", "ne", "lt", "le", "gt", "ge")

FUNCTIONS: dict[str, Callable[..., Symbol]] = {
    **{name: _keyword(_apply(name), "input") for name in UNARY},
    **{name: _keyword(_apply(name), "input", "other") for name in BINARY},
    **{f"__{name}__": _apply(name) for name in ("neg", "abs", "mul", "eq", "ne", "lt", "le", "gt", "ge")},
    **{name: _scaled(op) for op in ("add", "sub") for name in (op, f"__{op}__")},
    **{name: _reflected(_apply(op)) for op in ("sub", "mul", "add") for name in (f"r{op}", f"__r{op}__")},
    **dict.fromkeys(("div", "divide", "true_divide", "__div__", "__truediv__"), _div),
    **{name: _reflected(_apply("truediv")) for name in ("__rdiv__", "__rtruediv__")},
    **{name: _apply("floordiv") for name in ("floor_divide", "__floordiv__")},
    **{name: _apply("mod") for name in ("remainder", "__mod__")},
    "__rfloordiv__": _reflected(_apply("floordiv")),
    "__rmod__": _reflected(_apply("mod")),
    **dict.fromkeys(("pow", "float_power", "__pow__"), _pow),
    "__rpow__": _reflected(_pow),
    "square": lambda input: _pow(input, 2),
    "rsqrt": lambda input: _apply("truediv")(1.0, _apply("sqrt")(input)),
    "reciprocal": lambda input: _apply("truediv")(1.0, input),
    "relu": lambda input: _apply("maximum")(input, 0),
    "sign": _sign,
    "sgn": _sign,
    "negative": _apply("neg"),
    "absolute": _apply("abs"),
    "subtract": _scaled("sub"),
    "multiply": _apply("mul"),
    "greater": _apply("gt"),
    "greater_equal": _apply("ge"),
    "less": _apply("lt"),
    "less_equal": _apply("le"),
    "not_equal": _apply("ne"),
    "min": _apply("minimum"),
    "max": _apply("maximum"),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda input, min: _clamp(input, min=min),
    "clamp_max": lambda input, max: _clamp(input, max=max),
    **{name: _apply(op) for op in ("and", "or", "xor") for name in (f"__{op}__", f"__r{op}__", f"bitwise_{op}")},
    **{name: _apply("not") for name in ("__invert__", "bitwise_not")},
    **{f"logical_{op}": _logical(op) for op in ("and", "or", "xor", "not")},
    "where": _where,
    "masked_fill": _masked_fill,
    "isfinite": _isfinite,
    "to": _to,
    "type": _to,
    "type_as": _type_as,
    "float": lambda input: _to(input, torch.float32),
    "double": lambda input: _to(input, torch.float64),
    "half": lambda input: _to(input, torch.float16),
    "bfloat16": lambda input: _to(input, torch.bfloat16),
    "int": lambda input: _to(input, torch.int32),
    "long": lambda input: _to(input, torch.int64),
    "bool": lambda input: _to(input, torch.bool),
    **{f"{kind}_like": _filled(value) for kind, value in (("zeros", 0), ("ones", 1))},
    **{f"new_{kind}": _filled(value) for kind, value in (("zeros", 0), ("ones", 1))},
    "full_like": _filled(None, in_args=True),
    "new_full": _filled(None, in_args=True),
    **dict.fromkeys(("clone", "contiguous"), _identity),
}
PROPERTIES: dict[str, Callable[[Symbol], Any]] = {
    "shape": lambda symbol: torch.Size(()),
    "ndim": lambda symbol: 0,
    "dtype": lambda s: {"bool": torch.bool, "int": torch.int64, "float": torch.float32}[s.expression.kind],
    "device": lambda symbol: torch.device("cpu"),
}


def _known() -> str:
    return (
        "it has + - * / // % **, comparisons, & | ^ ~, torch.where, abs, minimum, maximum, clamp, exp, exp2, log, "
        "log2, sqrt, tanh, sigmoid, floor, ceil, round, trunc, logical_*, conversions, and indexing of captured tensors"
    )


for _name, _function in FUNCTIONS.items():
    if _name.startswith("__"):
        setattr(Symbol, _name, _function)

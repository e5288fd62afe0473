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
from numbers import Integral, Real
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from pellucid.language.expression import (
    COMPARISONS,
    INPUTS,
    LOGIC,
    SAME_KIND,
    TRANSCENDENTAL,
    Expression,
    Kind,
    Number,
    cast,
    constant,
    load,
    operation,
)


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
    except TypeError as error:
        if Symbol.__name__ not in str(error):
            raise
        raise TraceError(f"{label}: {error}, which stands for a score or an index; {_known()}") from None
    try:
        return _expression(result)
    except _Unsupported:
        raise TraceError(f"{label}: it must return one score or one bool, got {_describe(result)}") from None


class Symbol:
    """A value that is not known yet; what is done to it becomes an expression."""

    __slots__ = ("expression",)
    __array_ufunc__ = None  # leaves `numpy number * symbol` to the symbol

    def __init__(self, expression: Expression) -> None:
        self.expression = expression

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _record(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in PROPERTIES:
            return PROPERTIES[name](self)
        if name in METHODS:
            return lambda *args, **kwargs: _called(f"torch.Tensor.{name}", METHODS[name], (self, *args), kwargs)
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
        raise _Unsupported("it is given to numpy. Use torch's tensors and functions instead")


class _Unsupported(Exception):  # noqa: N818 - it never leaves this module
    pass


class _Row:
    """A captured tensor indexed by fewer symbols than it has dimensions: waits for the rest."""

    __slots__ = ("indices", "tensor")

    def __init__(self, tensor: Tensor, indices: tuple[Expression, ...]) -> None:
        self.tensor, self.indices = tensor, indices

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise next(a for a in args if isinstance(a, _Row)).unfinished()

    def __getitem__(self, index: Any) -> Symbol | _Row:
        return _index(self.tensor, index, self.indices)

    def unfinished(self) -> _Unsupported:
        return _Unsupported(
            f"a captured tensor of shape {list(self.tensor.shape)} is indexed by {len(self.indices)} of its "
            f"{self.tensor.ndim} dimensions; index all of them"
        )


class _Recording(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__getitem__ and _has_symbol(args[1]):
            return _index(args[0], args[1])
        if any(_has_symbol(a) for a in (*args, *(kwargs or {}).values())):
            return _record(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _record(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Symbol:
    name = getattr(func, "__name__", str(func))
    label = resolve_name(func) or name
    if name not in FUNCTIONS:
        raise _Unsupported(f"the operation '{label}' is not in the score language; {_known()}")
    return _called(label, (METHODS if func is Tensor.where else FUNCTIONS)[name], args, kwargs)


def _called(label: str, function: Callable[..., Symbol], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Symbol:
    try:
        return function(*args, **kwargs)
    except TypeError as error:
        raise _Unsupported(f"the operation '{label}' cannot be used like this: {error}") from None


def _has_symbol(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_has_symbol(v) for v in value)
    return isinstance(value, Symbol | _Row)


def _index(tensor: Tensor, index: Any, before: tuple[Expression, ...] = ()) -> Symbol | _Row:
    chosen = index if isinstance(index, tuple) else (index,)
    if any(i is None or i is Ellipsis or isinstance(i, slice) for i in chosen):
        raise _Unsupported("a captured tensor is indexed by a slice, ... or None; give one whole number a dimension")
    indices = before + tuple(map(_expression, chosen))
    if any(i.kind != "int" for i in indices):
        raise _Unsupported("a captured tensor is indexed by a float or a bool; convert the index with .to(torch.long)")
    if len(indices) > tensor.ndim:
        raise _Unsupported(f"a captured tensor of shape {list(tensor.shape)} is indexed by {len(indices)} dimensions")
    return Symbol(load(tensor, indices)) if len(indices) == tensor.ndim else _Row(tensor, indices)


def _expression(value: Any) -> Expression:
    if isinstance(value, Symbol):
        return value.expression
    if isinstance(value, bool):
        return constant(value)
    if isinstance(value, Integral | Real):  # numpy's numbers too
        return constant(int(value) if isinstance(value, Integral) else float(value))
    if isinstance(value, _Row):
        raise value.unfinished()
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
    if rounding_mode != "trunc":
        return _apply("floordiv" if rounding_mode == "floor" else "truediv")(input, other)
    if any(_expression(x).kind == "float" for x in (input, other)):
        return _apply("trunc")(_apply("truediv")(input, other))
    negative = _apply("xor")(_apply("lt")(input, 0), _apply("lt")(other, 0))
    quotient = _apply("floordiv")(_apply("abs")(input), _apply("abs")(other))
    return _apply("where")(negative, _apply("neg")(quotient), quotient)


def _pow(input: Any, exponent: Any) -> Symbol:
    base, power = _expression(input), _expression(exponent)
    kind: Kind = "float" if "float" in (base.kind, power.kind) else "int"
    if power.op == "constant" and power.value == 0.5:
        return _apply("sqrt")(input)
    if power.op == "constant" and power.value in (range(17) if kind == "int" else range(-16, 17)):
        product, factor = cast(constant(1), kind), cast(base, kind)
        for _ in range(abs(int(power.value))):
            product = operation("mul", product, factor)
        return Symbol(operation("truediv", constant(1), product) if power.value < 0 else product)
    if base.op == "constant" and base.value > 0:
        log = math.log2(base.value)
        if kind == "float":
            return _apply("exp2")(_apply("mul")(exponent, log))
        if log.is_integer():
            return _to(_apply("round")(_apply("exp2")(_apply("mul")(exponent, int(log)))), torch.int64)
    raise _Unsupported(
        "pow: one side must be a constant: an exponent 0.5 or a whole one up to 16, or a positive base (of whole "
        "numbers a power of 2; write 3.0 ** h for others)"
    )


def _clamp(input: Any, min: Any = None, max: Any = None) -> Symbol:
    low = Symbol(_expression(input)) if min is None else _apply("maximum")(input, min)
    return low if max is None else _apply("minimum")(low, max)


def _logical(op: str) -> Callable[..., Symbol]:
    apply = _apply(op)
    return lambda *args: apply(*(Symbol(cast(_expression(a), "bool")) for a in args))


def _where(condition: Any, input: Any, other: Any) -> Symbol:
    return _apply("where")(condition, input, other)


def _masked_fill(input: Any, mask: Any, value: Any) -> Symbol:
    return _apply("where")(mask, Symbol(cast(_expression(value), _expression(input).kind)), input)


def _kind_of(dtype: Any) -> Kind:
    if not isinstance(dtype, torch.dtype):
        raise _Unsupported(f"a conversion needs a torch.dtype, got {dtype!r}")
    if dtype == torch.bool:
        return "bool"
    if dtype.is_floating_point:
        return "float"
    if dtype.is_complex:
        raise _Unsupported("complex numbers are not in the score language")
    return "int"


def _to(input: Any, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Symbol:
    wanted = next((a for a in args if isinstance(a, torch.dtype | Tensor | Symbol)), dtype)
    if isinstance(wanted, Tensor | Symbol):
        return _type_as(input, wanted)
    value = _expression(input)
    return Symbol(value if wanted is None else cast(value, _kind_of(wanted)))


def _type_as(input: Any, other: Any) -> Symbol:
    kind = _kind_of(other.dtype) if isinstance(other, Tensor) else _expression(other).kind
    return Symbol(cast(_expression(input), kind))


def _full_like(input: Any, fill_value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Symbol:
    kind = _expression(input).kind if dtype is None else _kind_of(dtype)
    return Symbol(cast(_expression(fill_value), kind))


def _new_full(input: Any, size: Any, fill_value: Any, **options: Any) -> Symbol:
    if len(size):
        raise _Unsupported(f"a new tensor of size {tuple(size)}: a score is one number, of size ()")
    return _full_like(input, fill_value, **options)


def _identity(input: Any, *_: Any, **__: Any) -> Symbol:
    return Symbol(_expression(input))


def _sign(input: Any) -> Symbol:
    zero: Number = 0.0 if _expression(input).kind == "float" else 0
    one = type(zero)(1)
    return _where(_apply("gt")(input, zero), one, _where(_apply("lt")(input, zero), -one, zero))


def _isfinite(input: Any) -> Symbol:
    return _apply("lt")(_apply("abs")(input), math.inf)


UNARY = {name: name for name in SAME_KIND | TRANSCENDENTAL} | {
    "negative": "neg",
    "absolute": "abs",
    "bitwise_not": "not",
}
BINARY = {name: name for name in ("mul", "minimum", "maximum", *COMPARISONS)} | {
    "multiply": "mul",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "min": "minimum",
    "max": "maximum",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "not_equal": "ne",
    **{f"bitwise_{op}": op for op in LOGIC},
}
OPERATORS = {f"__{op}__": op for op in ("neg", "abs", "mul", "floordiv", "mod", *COMPARISONS, *LOGIC)} | {
    "__invert__": "not"
}
REFLECTED = {f"__r{op}__": op for op in ("add", "sub", "mul", "truediv", "floordiv", "mod", *LOGIC)} | {
    "rsub": "sub",
    "__rdiv__": "truediv",
}
CONVERSIONS = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "int": torch.int32,
    "long": torch.int64,
    "bool": torch.bool,
}

FUNCTIONS: dict[str, Callable[..., Symbol]] = {
    **{name: _keyword(_apply(op), "input") for name, op in UNARY.items()},
    **{name: _keyword(_apply(op), "input", "other") for name, op in BINARY.items()},
    **{name: _apply(op) for name, op in OPERATORS.items()},
    **{name: _reflected(_apply(op)) for name, op in REFLECTED.items()},
    **dict.fromkeys(("add", "__add__"), _scaled("add")),
    **dict.fromkeys(("sub", "subtract", "__sub__"), _scaled("sub")),
    **dict.fromkeys(("div", "divide", "true_divide", "__div__", "__truediv__"), _div),
    **dict.fromkeys(("pow", "__pow__"), _pow),
    "__rpow__": _reflected(_pow),
    "float_power": lambda input, exponent: _pow(_to(input, torch.float64), exponent),
    "square": lambda input: _pow(input, 2),
    "rsqrt": lambda input: _apply("truediv")(1.0, _apply("sqrt")(input)),
    "reciprocal": lambda input: _apply("truediv")(1.0, input),
    "relu": lambda input, inplace=False: _where(_apply("le")(input, 0), 0, input),
    **dict.fromkeys(("sign", "sgn"), _sign),
    **dict.fromkeys(("clamp", "clip"), _clamp),
    "clamp_min": lambda input, min: _clamp(input, min=min),
    "clamp_max": lambda input, max: _clamp(input, max=max),
    **{f"logical_{op}": _logical(op) for op in (*LOGIC, "not")},
    "where": _where,
    "masked_fill": _masked_fill,
    "isfinite": _isfinite,
    "to": _to,
    "type": lambda input, dtype: _to(input, dtype=dtype),
    "type_as": _type_as,
    **{name: partial(_to, dtype=dtype) for name, dtype in CONVERSIONS.items()},
    "zeros_like": partial(_full_like, fill_value=0),
    "ones_like": partial(_full_like, fill_value=1),
    "full_like": _full_like,
    "new_zeros": partial(_new_full, fill_value=0),
    "new_ones": partial(_new_full, fill_value=1),
    "new_full": _new_full,
    **dict.fromkeys(("clone", "contiguous", "positive", "__pos__"), _identity),
}
# As a method, `where` has its arguments in another order.
METHODS = FUNCTIONS | {"where": lambda input, condition, other: _where(condition, input, other)}
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

"""From a user's function to an expression: the function is called once, with symbols that record what is done to them.

Python's operators are recorded by the symbol itself, `torch.*` functions through `__torch_function__`, and the indexing
of a captured tensor by a symbol (which torch offers to nobody but a mode) through a TorchFunctionMode. Operations on
captured tensors alone run as usual while tracing, so their results are captured instead. vocabulary.py says what each
operation becomes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from pellucid.language.expression import INPUTS, Expression
from pellucid.language.operands import UnsupportedError, expression
from pellucid.language.rows import Part, Row, is_row, transpose, transposed
from pellucid.language.vocabulary import FUNCTIONS, METHODS, SUMMARY, Function


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
    try:
        # A subclass of Tensor as query switches symbols off: torch calls us with its functions unoverridden.
        with _functions_seen(), _Recording():
            result = _bare(function(*(Symbol(INPUTS[name]) for name in inputs)))
    except UnsupportedError as error:
        raise TraceError(f"{label}: {error}") from None
    except TypeError as error:
        _check_parameters(function, label, inputs)  # only now: it takes longer than all the rest
        if Symbol.__name__ not in str(error):
            raise
        said = str(error).replace(Symbol.__name__, "score or index")
        raise TraceError(f"{label}: {said}, which is not in the score language; {SUMMARY}") from None
    try:
        return expression(result)
    except UnsupportedError:
        shape = list(result.shape) if is_row(result) else []
        got = f"tensor of shape {shape}; reduce it, with .sum(-1)" if shape else type(result).__name__
        raise TraceError(f"{label}: it must return one score or one bool, got a {got}") from None


def _functions_seen() -> AbstractContextManager[Any]:
    """A context in which modes see torch's functions; torch.compile, which cannot enter it, always shows them."""
    return nullcontext() if torch.compiler.is_compiling() else torch._C._EnableTorchFunction()


class Symbol:
    """A value that is not known yet, or a row of them; what is done to it becomes an expression."""

    __slots__ = ("expression",)
    __array_ufunc__ = None  # leaves `numpy number * symbol` to the symbol

    def __init__(self, expression: Expression | Row | Part) -> None:
        self.expression = expression

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The shape: of one number, ()."""
        return () if isinstance(self.expression, Expression) else self.expression.shape

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one of its sizes."""
        return torch.Size(self.dimensions) if dim is None else self.dimensions[dim]

    def dim(self) -> int:
        """How many dimensions there are."""
        return len(self.dimensions)

    def numel(self) -> int:
        """How many elements there are."""
        return math.prod(self.dimensions)

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
        if name in TURNED:
            return _wrapped(TURNED[name](self.expression))
        if name in METHODS:
            return lambda *args, **kwargs: _called(f"torch.Tensor.{name}", METHODS[name], (self, *args), kwargs)
        raise UnsupportedError(f"the attribute or operation '{name}' is not in the score language; {SUMMARY}")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.expression, Expression):
            raise UnsupportedError("a score or an index is one number and cannot be indexed")
        return _wrapped(self.expression.indexed(_bare_index(index)))

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))])

    def __len__(self) -> int:
        if not self.dimensions:
            raise UnsupportedError("a score or an index is one number, not a sequence")
        return self.dimensions[0]

    def __contains__(self, value: Any) -> NoReturn:
        raise UnsupportedError("whether a row holds a value is not known yet; use (row == value).any()")

    def _no_number(self, *_: Any) -> NoReturn:
        raise UnsupportedError(f"it branches on its argument. {CONTROL_FLOW}")

    __bool__ = __int__ = __float__ = __complex__ = _no_number

    def __hash__(self) -> NoReturn:
        raise UnsupportedError("it is looked up in a dictionary, a set or a cache. Index a torch tensor instead")

    def __index__(self) -> NoReturn:
        raise UnsupportedError(
            "it is used as a Python index. Index a torch tensor instead of a list or an "
            "array; torch.stack makes one of a list of tensors"
        )

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedError("it is given to numpy. Use torch's tensors and functions instead")


TURNED: dict[str, Function] = {"T": transposed, "mT": lambda row: transpose(row, -2, -1)}


def _kind(symbol: Symbol) -> str:
    inner = symbol.expression
    return inner.kind if isinstance(inner, Expression) else inner.elements[0].kind


PROPERTIES: dict[str, Callable[[Symbol], Any]] = {
    "shape": lambda symbol: torch.Size(symbol.dimensions),
    "ndim": lambda symbol: len(symbol.dimensions),
    "dtype": lambda symbol: {"bool": torch.bool, "int": torch.int64, "float": torch.float32}[_kind(symbol)],
    "device": lambda symbol: torch.device("cpu"),
}


class _Recording(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__getitem__ and _has_symbol(args[1]):
            return _wrapped(Part.of(args[0]).indexed(_bare_index(args[1])))
        if any(_has_symbol(a) for a in (*args, *(kwargs or {}).values())):
            return _record(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _record(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = getattr(func, "__name__", str(func))
    if name not in FUNCTIONS:
        raise UnsupportedError(f"the operation '{_full_name(func)}' is not in the score language; {SUMMARY}")
    return _called(func, (METHODS if func is Tensor.where else FUNCTIONS)[name], args, kwargs)


def _called(func: Callable[..., Any] | str, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the language's `function` makes of the arguments; `func` is what the user called, or its name."""
    named = {name: _bare(value) for name, value in kwargs.items() if value is not None or name not in ABSENT}
    try:
        return _wrapped(function(*map(_bare, args), **named))
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        said = str(error).replace(Expression.__name__, "score or index")
        raise UnsupportedError(f"the operation '{_full_name(func)}' cannot be used like this: {said}") from None


def _wrapped(made: Any) -> Any:
    """What the language's functions give, as the user sees it."""
    return tuple(map(_wrapped, made)) if isinstance(made, tuple) else Symbol(made)


ABSENT = ("out", "dtype")  # torch's own Python functions pass None for them


def _full_name(func: Callable[..., Any] | str) -> str:
    if isinstance(func, str):
        return func
    return resolve_name(func) or getattr(func, "__name__", str(func))


def _bare(value: Any) -> Any:
    """A symbol's expression, also in a list; anything else as it is."""
    if isinstance(value, tuple | list) and _has_symbol(value):
        return type(value)(map(_bare, value))
    return value.expression if isinstance(value, Symbol) else value


def _bare_index(index: Any) -> Any:
    return tuple(map(_bare, index)) if isinstance(index, tuple) else _bare(index)


def _has_symbol(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_has_symbol(v) for v in value)
    return isinstance(value, Symbol)


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


def _operator(name: str) -> Callable[..., Any]:
    return lambda *args: _called(name, FUNCTIONS[name], args, {})


for _name in FUNCTIONS:
    if _name.startswith("__"):
        setattr(Symbol, _name, _operator(_name))

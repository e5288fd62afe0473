"""From a user's function to an expression: the function is called once, with symbols that record what is done to them.

Python's operators are recorded by the symbol itself, `torch.*` functions through `__torch_function__`, and the indexing
of a captured tensor by a symbol (which torch offers to nobody but a mode) through a TorchFunctionMode. Operations on
captured tensors alone run as usual while tracing, so their results are captured instead. vocabulary.py says what each
operation becomes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from pellucid.language.expression import INPUTS, Expression
from pellucid.language.vocabulary import FUNCTIONS, METHODS, SUMMARY, Function, UnsupportedError, element, expression


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
        got = f"tensor of shape {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise TraceError(f"{label}: it must return one score or one bool, got a {got}") from None


def _functions_seen() -> AbstractContextManager[Any]:
    """A context in which modes see torch's functions; torch.compile, which cannot enter it, always shows them."""
    return nullcontext() if torch.compiler.is_compiling() else torch._C._EnableTorchFunction()


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
        raise UnsupportedError(f"the attribute or operation '{name}' is not in the score language; {SUMMARY}")

    def __getitem__(self, index: Any) -> NoReturn:
        raise UnsupportedError("a score or an index is one number and cannot be indexed")

    def _no_number(self, *_: Any) -> NoReturn:
        raise UnsupportedError(f"it branches on its argument. {CONTROL_FLOW}")

    def _no_sequence(self, *_: Any) -> NoReturn:
        raise UnsupportedError("a score or an index is one number, not a sequence")

    __bool__ = __int__ = __float__ = __complex__ = _no_number
    __len__ = __iter__ = __contains__ = _no_sequence

    def __hash__(self) -> NoReturn:
        raise UnsupportedError("it is looked up in a dictionary, a set or a cache. Index a torch tensor instead")

    def __index__(self) -> NoReturn:
        raise UnsupportedError("it is used as a Python index. Index a torch tensor instead of a list or an array")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedError("it is given to numpy. Use torch's tensors and functions instead")


PROPERTIES: dict[str, Callable[[Symbol], Any]] = {
    "shape": lambda symbol: torch.Size(()),
    "ndim": lambda symbol: 0,
    "dtype": lambda s: {"bool": torch.bool, "int": torch.int64, "float": torch.float32}[s.expression.kind],
    "device": lambda symbol: torch.device("cpu"),
}


class _Row:
    """A captured tensor indexed by fewer symbols than it has dimensions: waits for the rest."""

    __slots__ = ("indices", "tensor")

    def __init__(self, tensor: Tensor, indices: tuple[Expression, ...]) -> None:
        self.tensor, self.indices = tensor, indices

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _record(func, args, kwargs or {})

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


def _record(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Symbol:
    name = getattr(func, "__name__", str(func))
    if name not in FUNCTIONS:
        raise UnsupportedError(f"the operation '{_full_name(func)}' is not in the score language; {SUMMARY}")
    return _called(func, (METHODS if func is Tensor.where else FUNCTIONS)[name], args, kwargs)


def _called(
    func: Callable[..., Any] | str, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Symbol:
    """What the language's `function` makes of the arguments; `func` is what the user called, or its name."""
    try:
        return Symbol(function(*map(_bare, args), **{name: _bare(value) for name, value in kwargs.items()}))
    except TypeError as error:
        raise UnsupportedError(f"the operation '{_full_name(func)}' cannot be used like this: {error}") from None


def _full_name(func: Callable[..., Any] | str) -> str:
    if isinstance(func, str):
        return func
    return resolve_name(func) or getattr(func, "__name__", str(func))


def _bare(value: Any) -> Any:
    """A symbol's expression; anything else as it is."""
    if isinstance(value, _Row):
        raise UnsupportedError(
            f"a captured tensor of shape {list(value.tensor.shape)} is indexed by {len(value.indices)} of its "
            f"{value.tensor.ndim} dimensions; index all of them"
        )
    return value.expression if isinstance(value, Symbol) else value


def _has_symbol(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_has_symbol(v) for v in value)
    return isinstance(value, Symbol | _Row)


def _index(tensor: Tensor, index: Any, before: tuple[Expression, ...] = ()) -> Symbol | _Row:
    chosen = index if isinstance(index, tuple) else (index,)
    if any(i is None or i is Ellipsis or isinstance(i, slice) for i in chosen):
        raise UnsupportedError("a captured tensor is indexed by a slice, ... or None; give each dimension one index")
    indices = before + tuple(expression(_bare(i)) for i in chosen)
    if any(i.kind != "int" for i in indices):
        raise UnsupportedError("a captured tensor is indexed by a float or a bool; convert it with .to(torch.long)")
    if len(indices) > tensor.ndim:
        raise UnsupportedError(
            f"a captured tensor of shape {list(tensor.shape)} has no {len(indices)} dimensions to index"
        )
    return Symbol(element(tensor, indices)) if len(indices) == tensor.ndim else _Row(tensor, indices)


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


def _operator(name: str) -> Callable[..., Symbol]:
    return lambda *args: _called(name, FUNCTIONS[name], args, {})


for _name in FUNCTIONS:
    if _name.startswith("__"):
        setattr(Symbol, _name, _operator(_name))

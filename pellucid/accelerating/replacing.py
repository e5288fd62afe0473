"""Pellucid's operator in place of a model's own, without observing: for speed."""

from __future__ import annotations

import copyreg
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from pellucid import engines
from pellucid.accelerating.growing_cache import grow_in_place
from pellucid.accelerating.kept_memory import kept
from pellucid.accelerating.parts import leave_parts, take_parts
from pellucid.capture.attending import SWAPPED
from pellucid.capture.called import own_class, set_class, subclass
from pellucid.capture.capturing import Capture
from pellucid.capture.sources import SOURCES, Source
from pellucid.capture.sources.base import Context
from pellucid.capture.sources.transformers.models import is_transformers

Model = TypeVar("Model", bound=nn.Module)
_lock = threading.RLock()
ACCELERATED = "_pellucid_accelerated"  # in the model's own dictionary, so that its copies know it too


def accelerate(model: Model) -> Model:
    """The same model, whose attention from now on is computed by Pellucid; `pellucid.restore(model)` undoes it.

    A model of transformers gets the implementation "pellucid", but the weights that it had if they are asked for, and a
    DynamicCache that it is given grows in place instead of being copied at each step. Any other model has its calls of
    scaled_dot_product_attention, nn.MultiheadAttention, flex_attention and xFormers' memory_efficient_attention led to
    Pellucid while its forward runs. In both a single row of bfloat16 or float32, as a step of a generation is, goes
    through each nn.Linear at the speed at which memory is read, and a forward without gradients keeps the memory that
    it frees, up to 128 MB a tensor, until it ends, where the C library is glibc. The numbers stay the same up to
    rounding. Doing it twice changes nothing.

    Args:
        model: any module.

    Raises:
        TypeError: `model` is no module.

    Example:
        >>> import torch, pellucid
        >>> model = pellucid.accelerate(torch.nn.TransformerEncoderLayer(8, 2, batch_first=True).eval())
        >>> model(torch.rand(1, 5, 8)).shape
        torch.Size([1, 5, 8])

    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: a torch.nn.Module is needed, got {type(model).__name__}")
    with _lock:
        if ACCELERATED not in vars(model):
            take_parts(model)
            _call_inside(model, kept, *_taken(model))
            if is_transformers(model):
                model.register_forward_pre_hook(_let_cache_grow, with_kwargs=True)
            vars(model)[ACCELERATED] = True
    return model


def restore(model: Model) -> Model:
    """The same model, attending by its own means again as before `accelerate`; also a copy of an accelerated one."""
    with _lock:
        if vars(model).pop(ACCELERATED, False):
            for source in SOURCES:
                source.leave(model)
            _let_cache_be_copied(model)
            _call_as_before(model)
            leave_parts(model)
    return model


def _taken(model: nn.Module) -> tuple[Context, ...]:
    """What calls of a model are to be inside of, once its sources are put into it."""
    sources = _sources_of(model)
    contexts = tuple(context for source in sources for context in source.take(model))
    return (*contexts, _captured) if any(source.handlers for source in sources) else contexts


def _sources_of(model: nn.Module) -> tuple[Source, ...]:
    return next(((source,) for source in SOURCES if source.has_whole(model)), SOURCES)


def _let_cache_be_copied(model: nn.Module) -> None:
    """Remove the hook of `_let_cache_grow`."""
    hooks = model._forward_pre_hooks
    for number in [number for number, hook in hooks.items() if hook is _let_cache_grow]:
        del hooks[number]
        model._forward_pre_hooks_with_kwargs.pop(number, None)


def _let_cache_grow(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    for given in (*args, *kwargs.values()):  # by its kind: the argument's name has changed with the library's versions
        grow_in_place(given)


@contextmanager
def _captured(model: nn.Module | None) -> Iterator[None]:
    with SWAPPED.holding(model), Capture(also_unwatched=True), engines.unwarned():
        yield


def _call_inside(model: nn.Module, *contexts: Context) -> None:
    """Let each call of the model run inside contexts made of the model.

    By a subclass of the model's class: hooks of a module are not run where Ctrl-C ends its forward.
    """
    set_class(model, _calling_inside(own_class(model), contexts))


def _calling_inside(before: type[nn.Module], contexts: tuple[Context, ...]) -> type[nn.Module]:
    """The class, with calls inside the contexts. Copies, pickled ones too, have it as well.

    Not while torch.compile looks on: what it compiles stays torch's, and in one graph.
    """

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or self._compiled_call_impl is not None:
            return before.__call__(self, *args, **kwargs)
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context(self))
            return before.__call__(self, *args, **kwargs)

    def reduced(self: Any, protocol: Any) -> Any:
        found: Any = before.__reduce_ex__(self, protocol)
        as_usual = found[:2] == (copyreg.__newobj__, (type(self),))  # type: ignore[attr-defined]
        return (_made, (before, contexts), *found[2:]) if as_usual else found

    return subclass(before, {"_before_pellucid": before, "__call__": call, "__reduce_ex__": reduced})


def _made(before: type[nn.Module], contexts: tuple[Context, ...]) -> nn.Module:
    for source in SOURCES:
        source.arrive()
    kind = _calling_inside(before, contexts)
    return kind.__new__(kind)


def _call_as_before(model: nn.Module) -> None:
    """Undo `_call_inside`, unless somebody has replaced the class since."""
    before = own_class(model).__dict__.get("_before_pellucid")
    if before is not None:
        set_class(model, before)


@contextmanager
def everywhere() -> Iterator[None]:
    """Let Pellucid compute all softmax attention inside the `with`, of whatever model or function.

    Every call of scaled_dot_product_attention, nn.MultiheadAttention, flex_attention and xFormers'
    memory_efficient_attention in this thread, and the "sdpa" of transformers in this context.

    Example:
        >>> import torch, pellucid
        >>> x = torch.rand(1, 2, 5, 8)
        >>> with pellucid.everywhere():
        ...     output = torch.nn.functional.scaled_dot_product_attention(x, x, x)

    """
    with ExitStack() as stack:
        for source in SOURCES:
            stack.enter_context(source.everywhere())
        stack.enter_context(_captured(None))
        yield

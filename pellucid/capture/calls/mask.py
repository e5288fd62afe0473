"""The mask that transformers asks for, kept as the function that it is instead of queries x keys numbers.

A MaskRule is what the library's mask function is called with. A LazyMask carries it through the model to the attention
function: a tensor of the right shape, of one number, that becomes the library's own where a model computes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pellucid.language import INPUTS, TRUE, Expression, Interval, TraceError, bounds, evaluate, load, trace
from pellucid.language.expression import cast
from pellucid.language.shift import by_index, by_position

MaskFunction = Callable[..., Any]  # (b, h, q, k) -> bool, of positions


@dataclass(eq=False)
class MaskRule:
    """Which keys each query may look at, by their positions.

    Attributes:
        function: of batch, head, and the positions of query and key; broadcasts.
        batch: sequences.
        q_len: queries, the first at position `start`.
        k_len: keys, the first at position `k_start`, as many as any query may look at.
        given_k_len: keys that the model will bring; a static cache brings empty ones at the end.
        padding: bool [batch, positions], True at tokens, or None if all are.
        materialise: the library's own way to the whole mask [batch, 1, q_len, given_k_len].

    """

    function: MaskFunction
    batch: int
    q_len: int
    k_len: int
    given_k_len: int
    start: int
    k_start: int
    padding: Tensor | None
    device: torch.device
    materialise: Callable[[], Tensor]

    @cached_property
    def by_position(self) -> Expression:
        """The mask as an expression of positions."""
        if self._traced is not None:
            return self._traced
        return by_position(self._dense_load, self.start, self.k_start)

    @cached_property
    def by_index(self) -> Expression:
        """The mask as an expression of the call's own indices; TRUE if every key is allowed."""
        if self._traced is None:
            return self._dense_load
        if self.q_len == 1:  # one row is short, and its kernel is the same at every step
            row = self.row
            return TRUE if bool(row.all()) else load(row, (INPUTS["b"], INPUTS["k"]))
        renumbered = by_index(self._traced, self.start, self.k_start, self.device)
        return TRUE if self._is_always(renumbered) else renumbered

    @cached_property
    def row(self) -> Tensor:
        """The mask of a single query, bool [batch, k_len]."""
        return self.allowed(torch.zeros(1, dtype=torch.int64, device=self.device))[:, 0, 0].contiguous()

    def allowed(self, queries: Tensor) -> Tensor:
        """The mask of some queries, by index: bool [batch, 1, queries, k_len]."""
        if self._traced is None:
            return self.materialise()[:, :, queries, : self.k_len]
        place = {
            "b": torch.arange(self.batch, device=self.device)[:, None, None, None],
            "h": torch.zeros(1, dtype=torch.int64, device=self.device)[:, None, None],
            "q": (queries + self.start)[:, None],
            "k": torch.arange(self.k_start, self.k_start + self.k_len, device=self.device),
        }
        (found,) = evaluate(self._traced, inputs=place, dtype=torch.float32)
        return found.expand(self.batch, 1, len(queries), self.k_len)

    def whole_function(self, b: Any, h: Any, q: Any, k: Any) -> Any:
        """The function and the padding in one: whether the key may be looked at, bool.

        Args:
            b: number of the sequence, an int64 tensor or, while it is traced, a symbol, as all of these.
            h: number of the head.
            q: position of the query.
            k: position of the key.

        """
        if self.padding is None:
            return self.function(b, h, q, k)
        return self.function(b, h, q, k) & self.padding[b, k]

    def dense(self) -> Tensor:
        """The whole mask, bool [batch, 1, q_len, given_k_len]."""
        return self.materialise()

    @cached_property
    def padded_keys(self) -> Tensor | None:
        """Which keys are padding, bool [batch, k_len], or None if none is."""
        return None if self.padding is None else ~self.padding[:, self.k_start : self.k_start + self.k_len]

    @cached_property
    def padded_queries(self) -> Tensor | None:
        """Which queries are padding, if they are of the same sequence as the keys: bool [batch, q_len], or None."""
        if self.padding is None or self.padding.shape[1] < self.start + self.q_len:
            return None
        padded = ~self.padding[:, self.start : self.start + self.q_len]
        return padded if bool(padded.any()) else None

    @cached_property
    def _traced(self) -> Expression | None:
        try:
            return cast(trace(self.whole_function, "mask", ("b", "h", "q", "k")), "bool")
        except TraceError:
            return None

    @cached_property
    def _dense_load(self) -> Expression:
        mask = self.materialise()
        return load(mask[:, 0], (INPUTS["b"], INPUTS["q"], INPUTS["k"]))

    def _is_always(self, mask: Expression) -> bool:
        places = {
            "b": Interval(0, self.batch - 1),
            "h": Interval(0, 0),
            "q": Interval(0, self.q_len - 1),
            "k": Interval(0, self.k_len - 1),
        }
        found = bounds(mask, places)
        return found is not None and found.low == 1


# What is answered without the whole mask: methods, and attributes through their getters.
_METHODS = (
    "size",
    "dim",
    "ndimension",
    "numel",
    "stride",
    "is_contiguous",
    "is_floating_point",
    "is_complex",
    "untyped_storage",
)
_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_cpu", "is_cuda", "is_mps", "is_xpu")
_KNOWN_BY_SHAPE = {
    *(getattr(Tensor, name) for name in _METHODS),
    *(getattr(Tensor, name).__get__ for name in (*_ATTRIBUTES, "is_meta", "is_nested", "is_sparse", "is_quantized")),
}
_ITSELF = {Tensor.contiguous, Tensor.detach}


class LazyMask(Tensor):
    """A mask [batch, 1, q_len, k_len] that is not there until something computes with it: then it is the library's."""

    rule: MaskRule
    _make: Callable[[], Tensor]
    _made: Tensor | None

    @staticmethod
    def of(rule: MaskRule, make: Callable[[], Tensor] | None = None, dtype: torch.dtype = torch.bool) -> LazyMask:
        """The mask that a rule describes.

        Args:
            rule: what it means.
            make: what makes the library's own tensor, which whoever computes with the mask gets; the rule's if None.
            dtype: of that tensor: bool, or that of the scores which it is added to.

        """
        shape = (rule.batch, 1, rule.q_len, rule.given_k_len)
        lazy = torch.ones((), dtype=dtype, device=rule.device).expand(shape).as_subclass(LazyMask)
        lazy.rule, lazy._make, lazy._made = rule, make or rule.dense, None
        return lazy

    def whole(self) -> Tensor:
        """The library's tensor, the same at each use: somebody may write over a part of it."""
        if self._made is None:
            with torch.inference_mode(False):  # so that it counts its changes there too
                self._made = self._make().clone()
        return self._made

    @property
    def is_changed(self) -> bool:
        """Whether somebody wrote over a part of it, so that the rule no longer says what it is."""
        return self._made is not None and self._made._version > 0

    def again(self) -> Tensor:
        """Another mask of the same numbers, which can be written over by itself."""
        return self.whole().clone() if self.is_changed else LazyMask.of(self.rule, self._make, self.dtype)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"LazyMask({list(self.shape)})"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _KNOWN_BY_SHAPE:
                return func(*args, **(kwargs or {}))
            if func in _ITSELF or (func is Tensor.to and _keeps(args[0], *args[1:], **(kwargs or {}))):
                return args[0]
            if func is Tensor.clone:
                return args[0].again()
            return func(*map(whole_of, args), **{name: whole_of(value) for name, value in (kwargs or {}).items()})


def _keeps(mask: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Whether `mask.to(...)` changes neither dtype nor device, and is no copy."""
    if not isinstance(mask, LazyMask) or kwargs.get("copy") or any(isinstance(arg, bool) and arg for arg in args[1:]):
        return False
    other = torch.empty(0, dtype=mask.dtype, device=mask.device).to(*args, **kwargs)
    return other.dtype == mask.dtype and other.device == mask.device


def whole_of(value: Any) -> Any:
    """An argument as whoever computes with it takes it: the library's own tensor in the place of a LazyMask."""
    if isinstance(value, LazyMask):
        return value.whole()
    if isinstance(value, tuple | list):
        return type(value)(map(whole_of, value)) if type(value) in (tuple, list) else value
    return value

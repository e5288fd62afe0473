"""The mask that transformers asks for, kept as the function that it is instead of queries x keys numbers.

A MaskRule is what the library's mask function is called with. A LazyMask carries it through the model to the attention
function: a tensor of the right shape, of one number, that becomes the whole mask if the model computes with it.
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
from pellucid.watch.shift import by_index, by_position

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
        materialise: the library's own way to the whole mask, bool [batch, 1, q_len, given_k_len].
        dtype: of the mask that the model expects, bool or that of the numbers that are added to the scores.

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
    dtype: torch.dtype = torch.bool

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
        """The function and the padding in one."""
        if self.padding is None:
            return self.function(b, h, q, k)
        return self.function(b, h, q, k) & self.padding[b, k]

    def dense(self) -> Tensor:
        """The whole mask, bool [batch, 1, q_len, given_k_len]."""
        return self.materialise()

    def given(self, dtype: torch.dtype) -> Tensor:
        """The whole mask in a dtype: bool, or 0 where a key is allowed and the lowest number where it is not."""
        allowed = self.dense()
        if dtype == torch.bool:
            return allowed
        return torch.zeros((), dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)

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
_NOTHING_TO_DO = {Tensor.contiguous, Tensor.clone, Tensor.detach}


class LazyMask(Tensor):
    """A mask [batch, 1, q_len, k_len] that is not there until something computes with it."""

    rule: MaskRule

    @staticmethod
    def of(rule: MaskRule) -> LazyMask:
        """The mask that a rule describes."""
        shape = (rule.batch, 1, rule.q_len, rule.given_k_len)
        lazy = torch.ones((), dtype=rule.dtype, device=rule.device).expand(shape).as_subclass(LazyMask)
        lazy.rule = rule
        return lazy

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"LazyMask({list(self.shape)})"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _KNOWN_BY_SHAPE:
                return func(*args, **(kwargs or {}))
            if func in _NOTHING_TO_DO or (func is Tensor.to and _keeps(args[0], *args[1:], **(kwargs or {}))):
                return args[0]
            return func(*map(_whole, args), **{name: _whole(value) for name, value in (kwargs or {}).items()})


def _keeps(mask: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Whether `mask.to(...)` changes neither dtype nor device."""
    other = torch.empty(0, dtype=mask.dtype, device=mask.device).to(*args, **kwargs)
    return other.dtype == mask.dtype and other.device == mask.device


def _whole(value: Any) -> Any:
    if isinstance(value, LazyMask):
        return value.rule.given(value.rule.dtype)
    if isinstance(value, tuple | list):
        return type(value)(map(_whole, value)) if type(value) in (tuple, list) else value
    return value

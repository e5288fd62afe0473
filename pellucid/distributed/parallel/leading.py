"""Torch's own attention inside a context is led to Pellucid's; what cannot be led there is refused.

It would see a rank's own positions alone, and give other numbers without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import flex_attention as flex
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from pellucid.arguments import Arguments
from pellucid.distributed.asked import sharded, sharing_here

Function = Callable[..., Any]
PRODUCTS: frozenset[Function] = frozenset((
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.baddbmm, Tensor.baddbmm, torch.einsum,
))  # fmt: skip
SOFTMAX: frozenset[Function] = frozenset((functional.softmax, torch.softmax, Tensor.softmax, torch.special.softmax))


def refusal(what: str) -> TypeError:
    """Of something that attends inside a context by means that are not looked into."""
    return TypeError(
        f"{what}: inside context_parallel it would see this rank's positions alone; call pellucid.attention, or "
        "pellucid.accelerate(model) before"
    )


class Leading(TorchFunctionMode):
    """Leads torch's own attention to Pellucid's, and refuses the softmax of a product of two sequences."""

    def __init__(self) -> None:
        super().__init__()
        self._scores = WeakTensorKeyDictionary()  # what came from a product of two sequences, as long as it lives

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return sharded(Arguments(*args, **kwargs), lone=False)[0]
        if func is functional.multi_head_attention_forward:
            raise refusal(func.__name__)
        if torch.compiler.is_compiling():  # a graph would break at whatever is looked at
            return func(*args, **kwargs)
        if func in SOFTMAX and self._is_score(args[0] if args else kwargs.get("input")):
            raise refusal("softmax of a product of two sequences")
        result = func(*args, **kwargs)
        self._follow(func, args, kwargs, result)
        return result

    def _is_score(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor in self._scores

    def _follow(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Products of two sequences are scores, and so is what is made of them for the same queries and keys."""
        if not isinstance(result, Tensor) or result.ndim < 2:
            return
        given = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        if func in PRODUCTS:
            is_score = sum(one.ndim > 2 and not isinstance(one, nn.Parameter) for one in given) > 1
        elif not self._scores or func is functional.linear:
            is_score = False
        else:
            is_score = any(one.shape[-2:] == result.shape[-2:] and self._is_score(one) for one in given)
        if is_score:
            self._scores[result] = None


_open = 0
_lock = Lock()
_TORCHS: Function = flex._validate_embed_dim


@contextmanager
def flex_refused() -> Iterator[None]:
    """Refuse flex_attention in this context, under whichever name it is called, compiled or not.

    Torch lets no mode see it, so what it checks its arguments by stands aside meanwhile.
    """
    _stand_in(1)
    try:
        yield
    finally:
        _stand_in(-1)


def _stand_in(more: int) -> None:
    global _open
    with _lock:
        _open += more
        flex._validate_embed_dim = _refusing if _open else _TORCHS


def _refusing(query: Tensor, key: Tensor, value: Tensor) -> None:
    if sharing_here() is not None:
        raise refusal("flex_attention")
    _TORCHS(query, key, value)

"""Attention that a model writes out itself: products of queries and keys, their softmax, its product with the values.

Each call of a function of torch is looked at after it ran, and the model's own results are left alone. A softmax is
attention only if what it was taken of comes from a product of two sequences, whatever was added or masked since, and
what it gave, unchanged but for its type, its shape before the last two dimensions, and dropout, is multiplied with as
many values as it has weights. So a classifier's or a router's is none, nor is that of linear attention's features.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from pellucid.capture.attending import attend, is_attending, name_of, read_beside, refuse, running_module, was_refused
from pellucid.capture.calls.call import FORBIDDING, Call, padding_of
from pellucid.capture.calls.roles import role_of
from pellucid.capture.sources.base import Follower, Source
from pellucid.language import INPUTS, SCORE, constant, load, operation
from pellucid.tensors.transformed import is_transformed

Function = Callable[..., Any]


@dataclass
class _Softmax:
    """A softmax over the last dimension whose weights may become attention."""

    module: nn.Module
    scores: Tensor  # [batch, heads, q_len, k_len], what it was taken of


class ByHand(threading.local, Follower):
    """Follows scores and their softmax, in each thread by itself, to the products that make them attention."""

    def __init__(self) -> None:
        self._scores = WeakTensorKeyDictionary()  # what came from a product of two sequences: its leading sizes
        self._weights = WeakTensorKeyDictionary()  # what each softmax gave, as long as somebody has it: its _Softmax

    def saw(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Look at a call of a function of torch that a model calls, after it ran."""
        if is_attending():
            return
        first = args[0] if args else kwargs.get("input")
        if function in _SOFTMAX:
            self._begin(*_arguments(*args, **kwargs), result)
        elif function in _PRODUCTS:
            self._multiply(_PRODUCTS[function](*args, **kwargs), result)
        elif self._weights and function in _UNCHANGING:
            self._follow(first, result)
        elif self._weights and _writes(function, kwargs):
            self._forget(kwargs.get("out", first))
        if self._scores and function is not functional.linear:
            self._derive(args, result)

    def forget_all(self) -> None:
        """Let go of what has not become attention."""
        self._scores.clear()
        self._weights.clear()

    def _derive(self, args: tuple[Any, ...], result: Any) -> None:
        """Scores with something added or masked are scores, as long as they are of the same queries and keys.

        Where batch and heads were once dimensions of their own, that is remembered when they become one.
        """
        if not isinstance(result, Tensor) or result in self._scores:
            return
        for before in args:
            lead = self._scores.get(before) if isinstance(before, Tensor) else None
            if lead is not None and before.shape[-2:] == result.shape[-2:]:
                own = result.shape[:-2]
                self._scores[result] = lead if len(lead) == 2 > len(own) and lead.numel() == own.numel() else own

    def _begin(self, scores: Tensor, dim: Any, weights: Tensor) -> None:
        module, lead = running_module(), self._scores.get(scores)
        if module is None or lead is None or was_refused(module):
            return
        if is_transformed(scores):
            refuse(module, "it computes its weights itself, inside a transform of torch.func")
            return
        if len(lead) in (1, 2) and dim in (-1, weights.ndim - 1) and weights.numel():
            batch, heads = (*lead, 1)[:2]
            own = scores.to(weights.dtype).reshape(batch, heads, *scores.shape[-2:])
            self._weights[weights] = _Softmax(module, own)

    def _follow(self, before: Any, result: Any) -> None:
        softmax = self._weights.get(before)
        if softmax is not None and isinstance(result, Tensor) and result.shape[-2:] == before.shape[-2:]:
            self._weights[result] = softmax

    def _multiply(self, product: _Product, result: Tensor) -> None:
        if all(map(_is_of_a_sequence, product.factors)):
            self._scores[result] = result.shape[:-2]
            softmax = self._weights.get(product.factors[0])
            if softmax is not None and product.value_dim is not None:
                self._finish(softmax, product.value_dim)

    def _finish(self, softmax: _Softmax, value_dim: int) -> None:
        for weights in [weights for weights, other in self._weights.items() if other is softmax]:
            del self._weights[weights]
        with read_beside(softmax.module):
            attend(softmax.module, _call(softmax, value_dim))

    def _forget(self, changed: Any) -> None:
        """Leave out what somebody writes over: neither weights nor scores are then what they were."""
        if not isinstance(changed, Tensor) or type(changed) is not Tensor:
            return
        memory = changed.untyped_storage().data_ptr()
        for weights, softmax in list(self._weights.items()):
            if memory in (tensor.untyped_storage().data_ptr() for tensor in (weights, softmax.scores)):
                del self._weights[weights]


def _arguments(input: Tensor, dim: Any = None, *others: Any, **more: Any) -> tuple[Tensor, Any]:
    """The scores and the dimension that a softmax is called with."""
    return input, more.get("axis", dim)


def _writes(function: Function, kwargs: dict[str, Any]) -> bool:
    """Whether a function changes a tensor in place: add_, __iadd__, __setitem__, or any with `out`."""
    name = getattr(function, "__name__", "")
    own = name.startswith(("__i", "__set")) if name.startswith("__") else name.endswith("_")
    return own or "out" in kwargs


def _call(softmax: _Softmax, value_dim: int) -> Call:
    """The scores as a Call: read from where they are, with a query and a key of zeros beside them."""
    scores = softmax.scores
    batch, heads, q_len, k_len = scores.shape
    place = tuple(INPUTS[name] for name in ("b", "h", "q", "k"))
    zero = scores.new_zeros(1, 1, 1, 1)
    score = load(scores, place)
    call = Call(
        zero.expand(batch, heads, q_len, 1), zero.expand(batch, heads, k_len, 1),
        zero.expand(batch, heads, k_len, value_dim), 1.0, operation("add", SCORE, score),
        operation("gt", score, constant(FORBIDDING)), by_hand=True,
    )  # fmt: skip
    call.padded_keys = padding_of(scores, batch)
    if q_len == k_len:
        call.padded_queries = call.padded_keys
    elif q_len < k_len and role_of(name_of(softmax.module), softmax.module, call, False) != "cross":
        return _without_room(call, scores)
    return call


def _without_room(call: Call, scores: Tensor) -> Call:
    """The call without the keys after the last that any query may look at: room that a static cache has for more."""
    seen = (scores > FORBIDDING).flatten(0, -2).any(0).nonzero()
    length = int(seen[-1]) + 1 if len(seen) else call.k_len
    call.key, call.value = call.key[:, :, :length], call.value[:, :, :length]
    call.padded_keys = None if call.padded_keys is None else call.padded_keys[:, :length]
    return call


# The products.


class _Product(NamedTuple):
    """A product of two factors; weights and values are one where `value_dim` is known."""

    factors: tuple[Any, Any]
    value_dim: int | None  # of the second factor, where the first may be weights [..., q_len, k_len]


def _is_of_a_sequence(factor: Any) -> bool:
    """Whether a factor has a matrix for each sequence of the batch; weights of a layer serve them all."""
    return isinstance(factor, Tensor) and factor.ndim > 2 and not isinstance(factor, nn.Parameter)


def _of_matmul(input: Tensor, right: Any = None, **more: Any) -> _Product:
    right = more.get("other", more.get("mat2", right))
    return _Product((input, right), right.shape[-1])


def _of_baddbmm(input: Any, batch1: Any, batch2: Any, *others: Any, **more: Any) -> _Product:
    return _Product((batch1, batch2), None)


def _of_einsum(equation: Any, *factors: Any) -> _Product:
    """`bhqk,bkhd->bqhd` and the like, whatever the letters: k is summed over, d is the value's alone."""
    terms, _, output = equation.replace(" ", "").partition("->") if isinstance(equation, str) else ("", "", "")
    weights, _, value = terms.partition(",")
    if len(factors) != 2 or len(weights) < 3 or "." in terms:
        return _Product((factors[0], factors[-1]), None)
    *lead, query, key = tuple(weights)
    own = set(value) - set(weights)
    fits = query in output and query not in value and key in value and key not in output
    is_value = fits and len(own) == 1 and set(lead) <= set(value) & set(output)
    return _Product((factors[0], factors[1]), factors[1].shape[value.index(own.pop())] if is_value else None)


_SOFTMAX: frozenset[Function] = frozenset((functional.softmax, torch.softmax, Tensor.softmax, torch.special.softmax))
_UNCHANGING: frozenset[Function] = frozenset((
    functional.dropout, torch.dropout, torch.reshape, Tensor.to, Tensor.type_as, Tensor.type, Tensor.float, Tensor.half,
    Tensor.bfloat16, Tensor.double, Tensor.contiguous, Tensor.clone, Tensor.view, Tensor.reshape,
))  # fmt: skip
_PRODUCTS: dict[Function, Callable[..., _Product]] = {
    torch.matmul: _of_matmul,
    Tensor.matmul: _of_matmul,
    Tensor.__matmul__: _of_matmul,
    torch.bmm: _of_matmul,
    Tensor.bmm: _of_matmul,
    torch.baddbmm: _of_baddbmm,
    Tensor.baddbmm: _of_baddbmm,
    torch.einsum: _of_einsum,
}

BY_HAND = Source(follower=ByHand())  # one for all modes of a thread: each of them is told of the same calls

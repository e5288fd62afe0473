"""The named masks, for `mask_mod` here and in FlexAttention: functions (b, h, q_idx, kv_idx) -> bool.

True means that the query may look at the key. Masks combine with & | ~, also with a function of your own. A window is
(left, right), inclusive, counted from the diagonal; `offset` moves the diagonal to the right, as when the queries are
the last of a longer sequence: query i then stands at position i + offset among the keys. Where the offset changes from
call to call, as in decoding, give it as an integer tensor of no dimensions: compiled code reads it, while a number is a
part of the code, which is made anew for another one.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from pellucid.tensors import compiling

MaskFunction = Callable[[Any, Any, Any, Any], Any]


class Mask:
    """A mask function that combines with others by & | ~."""

    def __init__(self, function: MaskFunction, name: str) -> None:
        self.function = function
        self.__name__ = name

    def __call__(self, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        """Whether the query may look at the key."""
        return self.function(b, h, q_idx, kv_idx)

    def __and__(self, other: MaskFunction) -> Mask:
        _check_mask("&", other)
        return Mask(lambda *place: self(*place) & other(*place), f"{self.__name__}_and_{_name(other)}")

    def __or__(self, other: MaskFunction) -> Mask:
        _check_mask("|", other)
        return Mask(lambda *place: self(*place) | other(*place), f"{self.__name__}_or_{_name(other)}")

    def __invert__(self) -> Mask:
        return Mask(lambda *place: ~self(*place), f"not_{self.__name__}")

    __rand__, __ror__ = __and__, __or__

    def __repr__(self) -> str:
        return f"<mask {self.__name__}>"


def causal(offset: int | Tensor = 0) -> Mask:
    """Keys up to the query's own place: `kv_idx <= q_idx + offset`. With offset 0, SDPA's is_causal (top-left).

    q_len 3, k_len 5      offset 0       offset 2
                          x . . . .      x x x . .
                          x x . . .      x x x x .
                          x x x . .      x x x x x

    Raises TypeError for an offset that is neither a whole number nor an integer tensor of no dimensions.
    """
    offset = _place("offset", offset)
    return Mask(lambda b, h, q_idx, kv_idx: kv_idx <= q_idx + offset, "causal")


def causal_lower_right(q_len: int, k_len: int) -> Mask:
    """Causal, aligned so that the last query sees the last key, as in FlashAttention: `causal(k_len - q_len)`."""
    return causal(k_len - q_len)


def sliding_window(
    left: int | Tensor | None = None, right: int | Tensor | None = None, offset: int | Tensor = 0
) -> Mask:
    """Keys from `left` before the query's place to `right` after it, both included; None is without limit.

    `sliding_window(W - 1, 0)` is a causal window of W keys. Raises ValueError for a negative width, TypeError for one
    that is neither a whole number nor an integer tensor of no dimensions, or for such an offset.
    """
    left, right = _width("left", left), _width("right", right)
    offset = _place("offset", offset)

    def window(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        distance = q_idx + offset - kv_idx
        if left is not None and right is not None:
            return (distance <= left) & (distance >= -right)
        if left is not None:
            return distance <= left
        return distance >= -right if right is not None else kv_idx >= 0

    return Mask(window, "sliding_window")


def prefix(length: int | Tensor) -> Mask:
    """Whether the key is one of the first `length`, a number or an integer tensor [batch].

    A prefix-LM is `causal() | prefix(n)`.

    Raises TypeError for a number that is not whole, ValueError for another tensor.
    """
    if isinstance(length, Tensor):
        _check_integers("length", length, 1)
        return Mask(lambda b, h, q_idx, kv_idx: kv_idx < length[b], "prefix")
    whole = _whole("length", length)
    return Mask(lambda b, h, q_idx, kv_idx: kv_idx < whole, "prefix")


def key_lengths(lengths: Tensor) -> Mask:
    """Keys that are not padding: batch b has `lengths[b]` keys. `lengths` is an integer tensor [batch].

    Raises ValueError for anything else.
    """
    _check_integers("lengths", lengths, 1)
    return Mask(lambda b, h, q_idx, kv_idx: kv_idx < lengths[b], "key_lengths")


def documents(ids: Tensor, key_ids: Tensor | None = None) -> Mask:
    """Keys of the query's own document, for sequences packed one after another.

    Args:
        ids: which document each token belongs to, an integer tensor [length] or [batch, length].
        key_ids: the same for the keys, where they are another sequence than the queries.

    Raises:
        ValueError: one of them is no integer tensor of one or two dimensions.

    """
    own = ids if key_ids is None else key_ids
    for name, tensor in (("ids", ids), ("key_ids", own)):
        _check_integers(name, tensor, 1, 2)

    def same_document(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        query = ids[q_idx] if ids.ndim == 1 else ids[b, q_idx]
        return query == (own[kv_idx] if own.ndim == 1 else own[b, kv_idx])

    return Mask(same_document, "documents")


def neighborhood_2d(height: int, width: int, kernel: int) -> Mask:
    """The kernel x kernel nearest pixels of an image of height x width, flattened row by row, as in NATTEN.

    At a border the neighbourhood moves inwards and keeps its size. Raises ValueError for an even or too large kernel or
    an image without pixels, TypeError for a size that is not whole.
    """
    height, width, kernel = _whole("height", height), _whole("width", width), _whole("kernel", kernel)
    for name, size in (("height", height), ("width", width)):
        if size < 1:
            raise ValueError(f"{name}: at least 1 is needed, got {size}")
    if kernel % 2 == 0 or kernel < 1 or kernel > min(height, width):
        raise ValueError(f"kernel: an odd size of at most {min(height, width)} is needed, got {kernel}")
    half = kernel // 2

    def near(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        row = torch.clamp(q_idx // width, half, height - 1 - half)
        column = torch.clamp(q_idx % width, half, width - 1 - half)
        return ((row - kv_idx // width).abs() <= half) & ((column - kv_idx % width).abs() <= half)

    return Mask(near, "neighborhood_2d")


def _whole(name: str, value: Any) -> int:
    """A number that becomes a part of the code."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}: a whole number is needed, got {type(value).__name__} {value!r}")
    return compiling.number(int(value))


def _place(name: str, value: Any) -> int | Tensor:
    """A whole number, or an integer tensor of no dimensions that the code reads."""
    if not isinstance(value, Tensor):
        return _whole(name, value)
    if value.ndim or not _of_integers(value):
        got = f"{value.dtype} of shape {list(value.shape)}"
        raise TypeError(f"{name}: a whole number or an integer tensor of no dimensions is needed, got {got}")
    return value


def _of_integers(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _check_integers(name: str, tensor: Tensor, *ranks: int) -> None:
    if not isinstance(tensor, Tensor) or not _of_integers(tensor) or tensor.ndim not in ranks:
        got = f"{tensor.dtype} of shape {list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name}: an integer tensor of {' or '.join(map(str, ranks))} dimensions is needed, got {got}")


def _width(name: str, value: Any) -> int | Tensor | None:
    width = None if value is None else _place(name, value)
    if isinstance(width, int) and width < 0:
        raise ValueError(f"{name}: a window reaches 0 or more keys, or None for all, got {width}")
    return width


def _check_mask(sign: str, other: Any) -> None:
    if isinstance(other, Tensor) or not callable(other):
        got = type(other).__name__
        raise TypeError(f"{sign}: a mask combines with a function of (b, h, q_idx, kv_idx), got {got}")


def _name(mask: MaskFunction) -> str:
    return getattr(mask, "__name__", type(mask).__name__)

"""Where the queries and keys of a call stand in their sequence, if the call itself does not say it.

A cache with memory for more positions than it holds brings that room as keys; one of a window brings its last keys.
The cache that the module was handed says which positions they have; else the last key that is looked at may.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.capture.calls.call import FORBIDDING, Call
from pellucid.capture.calls.keeping import closed, forbidden, part_of


def placed(call: Call, module: nn.Module, cache: Any) -> Call:
    """The call with its positions, and without the cache's room, where they are not known yet and its cache says so.

    Keys are left out only if no query looks at them. A call whose keys are not those of the cache, such as one of
    cross-attention beside it, stays as it is.
    """
    if call.start is not None or call.is_cross or not call.k_len:
        return call
    end = _held(cache, module, call)
    if end is None or end < call.q_len:
        return call
    found = replace(call, start=end - call.q_len, k_start=max(0, end - call.k_len))
    return _with_padding(_without_room(found, end) if end < call.k_len else found)


def placed_by_mask(call: Call, ends: Container[int]) -> Call:
    """The call without keys after the last that its last query looks at, if its queries then follow one of `ends`.

    So it is with memory for keys that a model has itself. Where the keys as they are follow one, the last of them are
    padding.
    """
    if call.k_len - call.q_len in ends:
        return call
    part = part_of(replace(call, dropout_p=0.0), call.k_len - call.q_len, None)
    device = call.query.device
    last, keys, heads = (torch.arange(size, device=device) for size in (call.k_len, call.k_len, call.heads))
    seen = (part.scores(last[-1:], keys, heads) > FORBIDDING).flatten(0, -2).any(0).nonzero()
    end = int(seen[-1]) + 1 if len(seen) else call.k_len
    if end == call.k_len or end - call.q_len not in ends:
        return call
    found = _without_room(replace(call, start=end - call.q_len), end)
    return call if found.k_len > end else _with_padding(found)


def _without_room(call: Call, end: int) -> Call:
    """The call without its keys from position `end` on, if no query looks at them."""
    part = part_of(replace(call, dropout_p=0.0), end - call.q_len, None)
    rows, room = range(end - call.q_len, end), range(end, call.k_len)
    if not forbidden(part, rows, room):
        return call
    # A row that only lowest numbers are added to looks at all keys alike: then its output is that of the room too.
    whole = None if closed(part, rows, room) else call
    dropout_p = call.dropout_p if whole is None else 0.0
    return replace(call, key=call.key[:, :, :end], value=call.value[:, :, :end], dropout_p=dropout_p, whole=whole)


def _with_padding(call: Call) -> Call:
    """The call with padding of its own keys only, and of the queries at their places."""
    if call.padded_keys is not None:
        keys = call.padded_keys[:, : call.k_len]
        call.padded_keys = keys if bool(keys.any()) else None
        first = (call.start or 0) - call.k_start
        queries = keys[:, first : first + call.q_len]
        call.padded_queries = queries if bool(queries.any()) else None
    return call


def _held(cache: Any, module: nn.Module, call: Call) -> int | None:
    """How many positions a cache holds in the layer whose keys a call has; None if none of its layers has them."""
    for layer in _layers(cache, module):
        held, length = getattr(layer, "keys", None), 0
        with suppress(AttributeError, TypeError, ValueError):  # of layers that hold no positions
            length = int(layer.get_seq_length())
        if length and isinstance(held, Tensor) and _are_of(call.key, held, length):
            return length
    return None


def _layers(cache: Any, module: nn.Module) -> Iterator[Any]:
    """The layers of a cache of transformers, first the one that a module says is its own."""
    library = sys.modules.get("transformers.cache_utils")
    if library is None or not isinstance(cache, library.Cache):
        return
    layers, own = getattr(cache, "layers", []), getattr(module, "layer_idx", None)
    if isinstance(own, int) and 0 <= own < len(layers):
        yield layers[own]
    yield from (layer for index, layer in enumerate(layers) if index != own)


def _are_of(key: Tensor, held: Tensor, length: int) -> bool:
    """Whether a call's keys, of which heads may be repeated, are those that a cache holds: by their last position."""
    if held.ndim != 4 or not held.shape[-2] or held.shape[-1] != key.shape[-1] or len(held) != len(key):
        return False
    if key.data_ptr() == held.data_ptr() and key.shape == held.shape:
        return True
    mine, its = (keys[:, 0, min(length, keys.shape[-2]) - 1] for keys in (key, held))
    return mine.dtype == its.dtype and mine.device == its.device and torch.equal(mine, its)

"""Inside a context the masks of transformers are made of the positions of all ranks, not of a rank's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from threading import Lock
from typing import Any

from torch import Tensor

from pellucid.distributed.asked import Sharing, sharing_here
from pellucid.distributed.exchange import gathered, numbers_of_all
from pellucid.distributed.sequence import layout_of

KINDS = ("sdpa", "flex_attention", "pellucid", "pellucid_eager")  # what is led to all ranks or refused


def _whole(tensor: Tensor, how: Sharing) -> Tensor:
    """Of [batch, own positions] those of all ranks, in their order."""
    lengths = [own[0] for own in numbers_of_all(how.group, [tensor.shape[-1]], "a model's masks")]
    (whole,) = gathered((tensor[..., None],), layout_of("layout", how.layout, lengths), how.group)
    return whole[..., 0]


def _packed(before: Callable[..., Any], position_ids: Tensor) -> Any:
    how = sharing_here()
    return before(position_ids if how is None else _whole(position_ids, how))


def _remapped(before: Callable[..., Any], mask_function: Any, position_ids: Tensor) -> Any:
    how = sharing_here()
    return before(mask_function, position_ids if how is None else _whole(position_ids, how))


def _left_away(before: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Whether a mask is left away: not for all keys being inside a window, of which a rank has some."""
    how, asked = sharing_here(), signature(before).bind(*args, **named)
    if how is None:
        return before(*args, **named)
    lengths = [own[0] for own in numbers_of_all(how.group, [asked.arguments["kv_length"]], "a model's masks")]
    window = asked.arguments.get("local_attention_size")
    asked.arguments["local_attention_size"] = None if window is None or sum(lengths) < window else 0
    return before(*asked.args, **asked.kwargs)


def _of_several(before: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What a mask is made of, for several positions on each rank and an attention that is led to all ranks."""
    how, asked = sharing_here(), signature(before).bind(*args, **named)
    if how is not None:
        config, embedded = list(asked.arguments.values())[:2]
        kind = getattr(config, "_attn_implementation", None) or "sdpa"
        if kind not in KINDS:
            raise ValueError(
                f"context_parallel: attn_implementation {kind!r} would see this rank's positions alone; set it to "
                "'sdpa', or call pellucid.accelerate(model) before"
            )
        lengths = [own[0] for own in numbers_of_all(how.group, [embedded.shape[1]], "a model's masks")]
        if 1 in lengths:
            raise ValueError(
                "context_parallel: a rank has a single position, which transformers takes for a step of decoding; two "
                f"or more are needed on each, got {lengths}"
            )
    return before(*args, **named)


# What transformers decides about a mask by a rank's own positions, decided by those of all.
INSTEAD: dict[str, Callable[..., Any]] = {
    "_preprocess_mask_arguments": _of_several,
    "find_packed_sequence_indices": _packed,
    "remap_positions_for_packed_sequence": _remapped,
    "_ignore_causal_mask_sdpa": _left_away,
    "_ignore_bidirectional_mask_sdpa": _left_away,
}


class _Masks:
    """Has transformers ask for the positions of all ranks, as long as one context or more are open."""

    def __init__(self) -> None:
        self._lock, self._open = Lock(), 0
        self._before: dict[str, Callable[..., Any]] = {}

    @contextmanager
    def told(self) -> Iterator[None]:
        """Inside the `with`; other threads' calls are as they were."""
        library = sys.modules.get("transformers.masking_utils")
        if library is None:
            yield
            return
        with self._lock:
            self._open += 1
            if self._open == 1:
                self._before = {name: getattr(library, name) for name in INSTEAD if hasattr(library, name)}
                for name, function in self._before.items():
                    setattr(library, name, partial(INSTEAD[name], function))
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                for name, function in self._before.items() if not self._open else ():
                    setattr(library, name, function)


MASKS = _Masks()

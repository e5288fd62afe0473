"""`context_parallel`: whatever attends inside of it does so over a sequence that lies on all ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from threading import Lock
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from pellucid.arguments import Arguments
from pellucid.distributed import layout as layouts
from pellucid.distributed.asked import Sharing, sharded, shared_here, sharing
from pellucid.distributed.exchange import Group, gathered, numbers_of_all
from pellucid.distributed.layout import Layout
from pellucid.distributed.sequence import Given, layout_of

KINDS = ("sdpa", "flex_attention", "pellucid", "pellucid_eager")  # of transformers, what is led to all ranks or refused
LOCAL = (flex_attention, multi_head_attention_forward)  # what attends by means that are not looked into


@contextmanager
def context_parallel(
    mesh: DeviceMesh,
    *,
    buffers: Sequence[Tensor] | None = None,
    buffer_seq_dims: Sequence[int] | None = None,
    no_restore_buffers: set[Tensor] | None = None,
    layout: Given = "head_tail",
) -> Iterator[None]:
    """Run a model on sequences that are cut along their length, each rank with its own positions: context parallelism.

    As `torch.distributed.tensor.experimental.context_parallel`, also on CPU, of any length, with masks and biases.
    Inside, every call of `pellucid.attention`, `pellucid.observe` and torch's scaled_dot_product_attention, also by an
    accelerated model, is one of the whole sequence: its query, key and value are this rank's positions, its masks and
    functions those of all. All ranks must run the same. `pellucid.watch` with ranks={"positions": mesh} records it.
    Masks of transformers are those of the whole sequence in accelerated and watched models; in others that are not
    plainly causal or without a mask they are refused, for they are as long as a rank's part. Attention that a model
    writes out itself, by products and a softmax, is of this rank's positions; watched, it is refused. Backward of what
    is checkpointed belongs inside too, for it runs the model again.

    Args:
        mesh: of one dimension.
        buffers: tensors that every rank has whole, such as tokens, their positions and labels: cut in place to this
            rank's positions, and restored at the end.
        buffer_seq_dims: the dimension of each along which positions lie.
        no_restore_buffers: of them those that may stay cut.
        layout: which positions a rank has: "head_tail", which balances causal work, "contiguous", or a Layout of
            sequences of one length.

    Raises:
        TypeError: something else than a mesh; a call inside of flex_attention, or of nn.MultiheadAttention in a model
            that is not accelerated.
        ValueError: a mesh of several dimensions, or buffers and dimensions that are not as many; a model inside of
            transformers whose attention is not led to all ranks, or a cache that is gone on with.

    """
    if not isinstance(mesh, DeviceMesh):
        raise TypeError(f"mesh: a DeviceMesh is needed, got {type(mesh).__name__}")
    if mesh.ndim != 1:
        raise ValueError(f"mesh: one of one dimension is needed, got {mesh.ndim}; name one, mesh['cp']")
    buffers, dims = list(buffers or ()), list(buffer_seq_dims or ())
    if len(buffers) != len(dims):
        raise ValueError(f"buffer_seq_dims: one for each of the {len(buffers)} buffers is needed, got {len(dims)}")
    group = mesh.get_group()
    whole = [buffer.detach().clone() for buffer in buffers]
    try:
        for buffer, dim in zip(buffers, dims, strict=True):
            _replace(buffer, cut(buffer.detach(), dim, layout, group))
        with sharing(Sharing(group, layout)), _MASKS.told(), _Leading():
            yield
    finally:
        kept = {id(buffer) for buffer in no_restore_buffers or ()}
        for buffer, before in zip(buffers, whole, strict=True):
            if id(buffer) not in kept:
                _replace(buffer, before)


def cut(tensor: Tensor, dim: int, layout: Given = "head_tail", group: Group = None) -> Tensor:
    """The rank's positions of a tensor that every rank has whole.

    Args:
        tensor: any.
        dim: along which positions lie.
        layout: which positions a rank has, as in `context_parallel`.
        group: the ranks; all if None.

    Raises:
        ValueError: a Layout of another length.

    """
    spans = _layout(tensor.shape[dim], layout, group).spans[dist.get_rank(group)]
    parts = [tensor.narrow(dim, span.start, len(span)) for span in spans]
    return torch.cat(parts or [tensor.narrow(dim, 0, 0)], dim)


def join(tensor: Tensor, dim: int, layout: Given = "head_tail", group: Group = None) -> Tensor:
    """The whole of what each rank has its positions of, on every rank; the inverse of `cut`, differentiable.

    Args:
        tensor: this rank's positions.
        dim: along which they lie.
        layout: as they were cut.
        group: the ranks; all if None.

    Raises:
        ValueError: lengths that are not those of the layout.

    """
    lengths: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(lengths, tensor.shape[dim], group)
    own = layout_of("layout", layout, lengths)
    rows = tensor.movedim(dim, 0).unsqueeze(-1).movedim(0, -2)  # positions last but one
    (whole,) = gathered((rows,), own, group)
    return whole.squeeze(-1).movedim(-1, dim)


def _layout(length: int, layout: Given, group: Group) -> Layout:
    ranks = dist.get_world_size(group)
    if isinstance(layout, Layout):
        if (layout.length, layout.ranks) != (length, ranks):
            raise ValueError(
                f"layout: one of {length} positions on {ranks} ranks is needed, got {layout.length} on {layout.ranks}"
            )
        return layout
    if layout is not None and not isinstance(layout, str):
        raise TypeError(f"layout: a Layout or its name is needed, got {type(layout).__name__}")
    return layouts.named("layout", layout or "contiguous")(length, ranks)


def _replace(buffer: Tensor, content: Tensor) -> None:
    with torch.no_grad():
        buffer.resize_(content.shape)
        buffer.copy_(content)


def _whole(tensor: Tensor, how: Sharing) -> Tensor:
    """Of [batch, own positions] those of all ranks, in their order."""
    lengths = [own[0] for own in numbers_of_all(how.group, [tensor.shape[-1]])]
    (whole,) = gathered((tensor[..., None],), layout_of("layout", how.layout, lengths), how.group)
    return whole[..., 0]


def _packed(before: Callable[..., Any], position_ids: Tensor) -> Any:
    how = shared_here()
    return before(position_ids if how is None else _whole(position_ids, how))


def _remapped(before: Callable[..., Any], mask_function: Any, position_ids: Tensor) -> Any:
    how = shared_here()
    return before(mask_function, position_ids if how is None else _whole(position_ids, how))


def _left_away(before: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Whether a mask is left away: not for all keys being inside a window, of which a rank has some."""
    how, asked = shared_here(), signature(before).bind(*args, **named)
    if how is None:
        return before(*args, **named)
    lengths = [own[0] for own in numbers_of_all(how.group, [asked.arguments["kv_length"]])]
    window = asked.arguments.get("local_attention_size")
    asked.arguments["local_attention_size"] = None if window is None or sum(lengths) < window else 0
    return before(*asked.args, **asked.kwargs)


def _of_several(before: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What a mask is made of, for several positions on each rank and an attention that is led to all ranks."""
    how, asked = shared_here(), signature(before).bind(*args, **named)
    if how is not None:
        config, embedded = list(asked.arguments.values())[:2]
        kind = getattr(config, "_attn_implementation", None) or "sdpa"
        if kind not in KINDS:
            raise ValueError(
                f"context_parallel: attn_implementation {kind!r} would see this rank's positions alone; set it to "
                "'sdpa', or call pellucid.accelerate(model) before"
            )
        lengths = [own[0] for own in numbers_of_all(how.group, [embedded.shape[1]])]
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


_MASKS = _Masks()


class _Leading(TorchFunctionMode):
    """Leads torch's own attention to Pellucid's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            return sharded(Arguments(*args, **(kwargs or {})))[0]
        if func in LOCAL:
            raise TypeError(
                f"{func.__name__}: inside context_parallel it would see this rank's positions alone; call "
                "pellucid.attention, or pellucid.accelerate(model) before"
            )
        return func(*args, **(kwargs or {}))

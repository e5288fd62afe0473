"""`context_parallel`: whatever attends inside of it does so over a sequence that lies on all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from pellucid.distributed import layout as layouts
from pellucid.distributed.asked import Sharing, sharing, sharing_here
from pellucid.distributed.exchange import Group, agree, gathered, numbers_of_all
from pellucid.distributed.layout import Layout
from pellucid.distributed.parallel.leading import Leading, flex_refused
from pellucid.distributed.parallel.masks import MASKS
from pellucid.distributed.sequence import Given, layout_of


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
    plainly causal or without a mask they are refused, for they are as long as a rank's part. What attends by other
    means is refused where it is known. Backward of what is checkpointed belongs inside too, for it runs the model
    again.

    Args:
        mesh: of one dimension.
        buffers: tensors that every rank has whole, such as tokens, their positions and labels: cut in place to this
            rank's positions, and restored at the end.
        buffer_seq_dims: the dimension of each along which positions lie.
        no_restore_buffers: of them those that may stay cut.
        layout: which positions a rank has: "head_tail", which balances causal work, "contiguous", or a Layout of
            sequences of one length.

    Raises:
        IndexError: a buffer that does not have its dimension.
        RuntimeError: inside another context, of other ranks or another layout, or that cuts buffers.
        TypeError: something else than a mesh; a call inside of flex_attention, of nn.MultiheadAttention in a model that
            is not accelerated, or of a model that writes its products and softmax itself.
        ValueError: a mesh of several dimensions, buffers and dimensions that are not as many, or a buffer that cannot
            be cut in place; a model inside of transformers whose attention is not led to all ranks, or a cache that is
            gone on with.

    """
    if not isinstance(mesh, DeviceMesh):
        raise TypeError(f"mesh: a DeviceMesh is needed, got {type(mesh).__name__}")
    if mesh.ndim != 1:
        raise ValueError(f"mesh: one of one dimension is needed, got {mesh.ndim}; name one, mesh['cp']")
    buffers, dims = list(buffers or ()), list(buffer_seq_dims or ())
    if len(buffers) != len(dims):
        raise ValueError(f"buffer_seq_dims: one for each of the {len(buffers)} buffers is needed, got {len(dims)}")
    dims = [_dim_of("buffer_seq_dims", buffer, dim) for buffer, dim in zip(buffers, dims, strict=True)]
    if any(buffer.requires_grad for buffer in buffers):
        raise ValueError(
            "buffers: one that needs a gradient is not cut in place; cut it, pellucid.distributed.cut(...)"
        )
    group = mesh.get_group()
    _check_outer(Sharing(group, layout), buffers)
    whole = [buffer.detach().clone() for buffer in buffers]
    try:
        for buffer, dim in zip(buffers, dims, strict=True):
            _replace(buffer, cut(buffer.detach(), dim, layout, group))
        with sharing(Sharing(group, layout)), flex_refused(), MASKS.told(), Leading():
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
        IndexError: a dimension that it does not have.
        ValueError: a Layout of another length.

    """
    dim = _dim_of("dim", tensor, dim)
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
        IndexError: a dimension that it does not have.
        LostRankError: a rank is not reached.
        ValueError: lengths that are not those of the layout, or ranks that do not agree on anything else.

    """
    fault: Exception | None = None
    length, told = 0, dict.fromkeys(("tensor", "dim", "layout"), "")
    try:
        dim = _dim_of("dim", tensor, dim)
        length, others = tensor.shape[dim], (*tensor.shape[:dim], *tensor.shape[dim + 1 :])
        told = {"tensor": f"{others}, {tensor.dtype}", "dim": str(dim), "layout": str(layout or "contiguous")}
    except (IndexError, TypeError) as error:
        fault = error
    lengths = [found[0] for found in numbers_of_all(group, [length], "join(...)")]
    agree([group], fault, told, "join(...)")
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


def _dim_of(argument: str, tensor: Tensor, dim: int) -> int:
    """A dimension from the front. Raises TypeError and IndexError, naming the argument, where there is none."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{'buffers' if argument != 'dim' else 'tensor'}: tensors are needed, got {type(tensor).__name__}"
        )
    if not -tensor.ndim <= dim < tensor.ndim:
        raise IndexError(
            f"{argument}: one of the {tensor.ndim} dimensions of {list(tensor.shape)} is needed, got {dim}"
        )
    return dim % tensor.ndim


def _check_outer(own: Sharing, buffers: Sequence[Tensor]) -> None:
    outer = sharing_here()
    if outer is not None and (buffers or outer != own):
        raise RuntimeError(
            "context_parallel: it is inside of another, whose ranks and layout hold, and what is cut there is not cut "
            "again; leave that first"
        )


def _replace(buffer: Tensor, content: Tensor) -> None:
    with torch.no_grad():
        buffer.resize_(content.shape)
        buffer.copy_(content)

"""What ranks do inside `context_parallel`, and what they are told there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import flex_attention as flex
from torch.nn.functional import scaled_dot_product_attention

import pellucid
from pellucid import distributed
from pellucid.distributed import context_parallel
from pellucid.nn import KeyValueCache, SelfAttention
from tests.cases import normal
from tests.distributed.ranks import group, mesh

LENGTH, DIM = 11, 8


class Written(nn.Module):
    """Attention that is written out; what is between product and softmax, and softmax and product, are a model's."""

    def forward(self, x: Tensor) -> Tensor:
        scores = (x @ x.mT) * 0.5 + torch.zeros(x.shape[-2], x.shape[-2])
        weights: Tensor = torch.softmax(scores.masked_fill(scores > 9.0, -9.0), dim=-1)
        return weights @ x


def layer(**options: Any) -> SelfAttention:
    torch.manual_seed(3)
    return SelfAttention(DIM, 2, **options).to(sequence().dtype)


MODELS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "torch's attention": lambda: lambda x: scaled_dot_product_attention(x, x, x, is_causal=True),
    "rotary positions": lambda: layer(rotary=100.0, is_causal=True),
    "a softmax that is none": lambda: lambda x: pellucid.attention(x, x, x) * x.sum(-1, keepdim=True).softmax(-1),
}


def sequence() -> Tensor:
    return normal(2, LENGTH, DIM, seed=5)


def run(name: str, ranks: int) -> Tensor:
    """What a model gives, of all ranks."""
    x = sequence()
    with torch.no_grad(), context_parallel(mesh(ranks), buffers=[x], buffer_seq_dims=[1]):
        found = distributed.join(MODELS[name]()(x), 1, group=group(ranks))
    assert torch.equal(x, sequence())
    return found


def _flex(x: Tensor) -> Tensor:
    found: Tensor = flex.flex_attention(x[:, None], x[:, None], x[:, None])
    return found


def _few(x: Tensor) -> Tensor:
    return scaled_dot_product_attention(x[:, :1], x, x)


class Few(nn.Module):
    """A step that takes itself for one of decoding."""

    def forward(self, x: Tensor) -> Tensor:
        return _few(x)


def _few_watched(x: Tensor) -> None:
    with torch.no_grad(), pellucid.watch(model := Few()):
        model(x)


def _nested(**options: Any) -> Callable[[Tensor], Any]:
    def enter(x: Tensor) -> None:
        with context_parallel(mesh(2), **{name: [x] if make is None else make for name, make in options.items()}):
            raise AssertionError("it was entered")

    return enter


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "flex_attention": (_flex, "TypeError: flex_attention: inside context_parallel"),
    "written out": (Written(), "TypeError: softmax of a product of two sequences: inside context_parallel"),
    "a cache": (lambda x: layer()(x, cache=KeyValueCache()), "TypeError: cache: none is kept"),
    "one query a rank": (_few, "ValueError: is_causal: no rank has more than one"),
    "one query a rank, watched": (_few_watched, "ValueError: is_causal: no rank has more than one"),
    "one query a rank, accelerated": (
        lambda x: pellucid.accelerate(Few())(x),
        "ValueError: is_causal: no rank has more than one",
    ),
    "a rank's own mask": (
        lambda x: scaled_dot_product_attention(x, x, x, torch.zeros(x.shape[1], x.shape[1])),
        "ValueError: attn_mask: must broadcast to the whole call|ValueError: attention: rank .* refuses",
    ),
    "torch.func": (
        lambda x: torch.func.grad(lambda y: pellucid.attention(y, x, x).sum())(x),
        "TypeError: query: ranks cannot send it inside torch.func",
    ),
    "another layout inside": (_nested(layout="contiguous"), "RuntimeError: context_parallel: it is inside"),
    "cut again": (_nested(buffers=None, buffer_seq_dims=[1]), "RuntimeError: context_parallel: it is inside"),
}  # fmt: skip


def refused(ranks: int) -> dict[str, str]:
    """What each of them raises; then the ranks are together again, and nothing stays refused."""
    told = {}
    for name, (function, _) in REFUSED.items():
        x = sequence()
        with context_parallel(mesh(ranks), buffers=[x], buffer_seq_dims=[1]):
            told[name] = _told(lambda: function(x))  # noqa: B023
    x = sequence()
    Written()(x)
    assert flex._validate_embed_dim.__module__ == flex.__name__
    distributed.join(x, 1, None, group(ranks))
    return told


def buffers(ranks: int) -> list[str]:
    """What is said of buffers that cannot be cut; none is."""
    x, leaf = sequence(), sequence().requires_grad_()
    given = [([x, x], [1, 3]), ([x, leaf], [1, 1]), ([x, 3], [1, 1])]

    def enter(some: Any, dims: list[int]) -> None:
        with context_parallel(mesh(ranks), buffers=some, buffer_seq_dims=dims):
            raise AssertionError("it was entered")

    told = [_told(lambda: enter(*own)) for own in given]  # noqa: B023
    assert torch.equal(x, sequence())
    return told


def steps(ranks: int) -> list[str]:
    """What is said where ranks have come to different things, or join what is no whole; then they are together."""
    own, rank = group(ranks), dist.get_rank(group(ranks))
    x = sequence()
    seen = distributed.observe(x, x, x, group=own)[1]
    other: list[Callable[[], Any]] = [
        lambda: seen.weights() if rank else distributed.attention(x, x, x, group=own),
        lambda: distributed.join(x, 1, None, own) if rank else seen.weights(),
        lambda: distributed.join(x, rank, None, own),
        lambda: distributed.join(x.half() if rank else x, 1, None, own),
        lambda: distributed.join(x, 7 if rank else 1, None, own),
    ]
    told = list(map(_told, other))
    distributed.attention(x, x, x, group=own)
    return told


def strangers(ranks: int) -> list[str]:
    """What is said of groups that are none, and of DTensors among shards of one's own."""
    x = sequence()
    placed = distributed_tensor(x, ranks)
    return [
        _told(lambda: distributed.attention(x, x, x, group=mesh(ranks))),
        _told(lambda: distributed.attention(x, x, x, group="gloo")),
        _told(lambda: distributed.attention(placed, placed, placed, group=group(ranks))),
        _told(lambda: distributed.attention(x, x, x, sinks=placed, group=group(ranks))),
        _told(
            lambda: distributed.attention(
                x, x, x, score_mod=lambda s, b, h, q, k: s + placed[h, 0, 0], group=group(ranks)
            )
        ),
    ]


def distributed_tensor(x: Tensor, ranks: int) -> Any:
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(x, mesh(ranks), [Replicate()], run_check=False)


def pooled_max(ranks: int) -> bool:
    """Whether what has no gradient says that it has one."""
    x = sequence().requires_grad_()
    seen = distributed.observe(x, x, x, readouts=[pellucid.readouts.PooledMax(2, 2)], group=group(ranks))[1]
    return bool(seen.pooled_max.requires_grad)


def records(ranks: int, folder: str) -> list[str]:
    """What is said where ranks ask for a record otherwise."""
    own, rank = group(ranks), dist.get_rank(group(ranks))
    with torch.no_grad(), pellucid.watch(model := layer(), ranks={"sequences": own}) as record:
        model(sequence())
    return [
        _told(lambda: record.gather(to=rank)),
        _told(lambda: record.gather() if rank else record.save(f"{folder}/a.attn")),
        _told(lambda: record.save(f"{folder}/{rank}.attn")),
        _told(lambda: record.gather()),
    ]


def _told(function: Callable[[], Any]) -> str:
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"

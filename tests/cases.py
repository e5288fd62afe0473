"""What the tests of the functional face share: calls to draw, their dense meaning in float64, engines, tolerances.

The dense meaning is written here from the definition, in plain torch, and shares nothing with the package: score_mod
and mask_mod are mapped over every place by torch.vmap, as FlexAttention does, not traced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from pellucid import engines
from pellucid.engines import portable

LENGTHS = (0, 1, 15, 16, 17, 63, 64, 65, 257)
DIMS = (1, 2, 3, 5, 8, 13, 31, 64, 100, 256)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "contiguous", "transposed", "sliced", "every other", "expanded", "one row")

# "tiles" is the portable engine with tiles so small that every row spans several, in both directions.
ENGINES = ("reference", "portable", "tiles", "cpu")
DIFFERENTIABLE = ENGINES
EFFORT = int(os.environ.get("PELLUCID_TEST_EFFORT", "1"))


def examples(count: int, engine: str = "") -> settings:
    """Hypothesis settings for `count` examples; PELLUCID_TEST_EFFORT multiplies it.

    A quarter for the compiled engine, which compiles a kernel or two for each.
    """
    return settings(max_examples=count * EFFORT // (4 if engine == "cpu" else 1))


@contextmanager
def running(engine: str, tile: tuple[int, int] = (5, 7)) -> Iterator[None]:
    """Run every call inside on `engine`, one of ENGINES."""
    small = portable.tiles(*tile) if engine == "tiles" else nullcontext()
    with engines.using("portable" if engine == "tiles" else engine), small:
        yield


@dataclass(frozen=True)
class Call:
    """The arguments of one call of scaled_dot_product_attention."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def by(self, function: Callable[..., Any], **more: Any) -> Any:
        """What `function` makes of the call."""
        return function(**{field.name: getattr(self, field.name) for field in fields(self)}, **more)

    def to(self, dtype: torch.dtype) -> Call:
        """The call in another precision; a float mask follows."""
        mask = self.attn_mask
        mask = mask.to(dtype) if mask is not None and mask.is_floating_point() else mask
        return replace(
            self, query=self.query.to(dtype), key=self.key.to(dtype), value=self.value.to(dtype), attn_mask=mask
        )


class Dense(NamedTuple):
    """The whole matrix of a call, in float64 unless asked otherwise. Differentiable."""

    scores: Tensor  # [..., q_len, k_len], -inf where masked
    weights: Tensor
    lse: Tensor  # [..., q_len]
    output: Tensor
    sink_weight: Tensor  # [..., q_len], 0 without sinks
    # The sizes of what is added up, and may cancel:
    score_magnitude: float  # the largest of |query| @ |key|.T * |scale|, and of the scores that came of it
    magnitude: Tensor  # weights @ |value|, the output's shape


def dense(
    call: Call,
    *,
    score_mod: Callable[..., Any] | None = None,
    mask_mod: Callable[..., Any] | None = None,
    sinks: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Dense:
    """The definition: scores, masks, softmax, average."""
    query, key, value = (tensor.to(dtype) for tensor in (call.query, call.key, call.value))
    if call.enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scale = (query.shape[-1] or 1) ** -0.5 if call.scale is None else call.scale
    scores = query @ key.mT * scale
    score_magnitude = largest(query.abs() @ key.abs().mT * scale)
    leading = torch.broadcast_shapes(scores.shape[:-2], value.shape[:-2])
    scores = scores.expand(*leading, *scores.shape[-2:])
    if score_mod is not None:
        scores = mapped(score_mod, scores)
    if call.is_causal:
        _, _, q, k = places(scores.shape)
        scores = scores.masked_fill(q < k, -torch.inf)
    if call.attn_mask is not None:
        mask = call.attn_mask
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(dtype)
    if mask_mod is not None:
        scores = scores.masked_fill(~mapped(lambda _, *place: mask_mod(*place), scores), -torch.inf)
    column = scores.new_full((*scores.shape[:-1], 1), -torch.inf)
    if sinks is not None:
        column = sinks.to(dtype).reshape(-1, 1, 1).expand_as(column)
    every = torch.cat([scores, column], -1)
    empty = (every == -torch.inf).all(-1)
    shares = every.masked_fill(empty[..., None], 0.0).softmax(-1).masked_fill(empty[..., None], 0.0)
    lse = every.masked_fill(empty[..., None], 0.0).logsumexp(-1).masked_fill(empty, -torch.inf)
    weights = shares[..., :-1]
    return Dense(
        scores,
        weights,
        lse,
        weights @ value,
        shares[..., -1],
        max(score_magnitude, largest(scores)),
        weights @ value.abs(),
    )


def places(shape: torch.Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The indices b, h, q and k of a [..., heads, q_len, k_len] matrix, or a [q_len, k_len] one, to broadcast."""
    *batch, heads, q_len, k_len = (1,) * (3 - len(shape)) + tuple(shape)
    b = torch.arange(torch.Size(batch).numel()).reshape(*batch, 1, 1, 1)
    h, q, k = torch.arange(heads)[:, None, None], torch.arange(q_len)[:, None], torch.arange(k_len)
    return (b, h, q, k) if len(shape) > 2 else (torch.zeros((), dtype=torch.long),) * 2 + (q, k)


def mapped(function: Callable[..., Any], scores: Tensor) -> Tensor:
    """`function(score, b, h, q, k)` at every place; where it makes a float of an index, in the scores' dtype."""
    if not scores.numel():
        return scores
    each = [index.expand(scores.shape).flatten() for index in places(scores.shape)]
    with default_dtype(scores.dtype):
        return torch.vmap(lambda *one: torch.as_tensor(function(*one)))(scores.flatten(), *each).view(scores.shape)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What `index + 0.5` is inside: torch makes it the default dtype, float32 as a rule, whatever the scores are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def largest(tensor: Tensor) -> float:
    """The largest finite magnitude in a tensor, 0 for an empty one."""
    finite = tensor.detach()[torch.isfinite(tensor)]
    return finite.abs().max().item() if finite.numel() else 0.0


def error(result: Tensor, exact: Tensor) -> float:
    """The largest difference; infinities must agree, and so must NaN."""
    result, exact = torch.broadcast_tensors(result.detach().double(), exact.detach().double())
    same = (result == exact) | (result.isnan() & exact.isnan())
    difference = torch.where(same, 0.0, result - exact).abs()
    return difference.nan_to_num(nan=torch.inf).max().item() if difference.numel() else 0.0


def tolerance(dtype: torch.dtype, exact: Dense, peer: Tensor | None = None) -> float:
    """How far an output may be from the exact one.

    Twice the error of a peer's output in the same precision, and a few units in the last place: of the output as it is
    stored, and of the terms that were added up to it, whose own error is that of their scores: an error in a score is a
    relative error in its weight. The exact one is a float64 sum of as many terms as there are keys.
    """
    double = torch.finfo(torch.float64).eps
    computed = double if dtype == torch.float64 else torch.finfo(torch.float32).eps
    stored = 4 * torch.finfo(dtype).eps * largest(exact.output)
    added = 2 * computed * (2 + exact.score_magnitude) * largest(exact.magnitude)
    summed = 2 * double * exact.weights.shape[-1] ** 0.5 * largest(exact.magnitude)
    return stored + added + summed + (2 * error(peer, exact.output) if peer is not None else 0.0)


def assert_close(result: Tensor, exact: Tensor, allowed: float) -> None:
    """Same shape, and nowhere farther than `allowed`."""
    assert result.shape == exact.shape, f"shape {list(result.shape)}, expected {list(exact.shape)}"
    found = error(result, exact)
    assert found <= allowed, f"error {found:.3g}, allowed {allowed:.3g}"


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Normally distributed numbers, the same for the same seed and shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same shape in another memory layout; "expanded" and "one row" repeat numbers with stride 0."""
    if layout == "transposed":
        return tensor.mT.contiguous().mT if tensor.ndim < 3 else tensor.transpose(-3, -2).contiguous().transpose(-3, -2)
    if layout == "sliced":
        return torch.nn.functional.pad(tensor, (3, 2, 1, 4))[..., 1 : tensor.shape[-2] + 1, 3 : tensor.shape[-1] + 3]
    if layout == "every other":
        return tensor.repeat_interleave(2, -1)[..., ::2]
    if layout == "expanded" and tensor.shape[0]:
        return tensor[:1].expand(tensor.shape)
    if layout == "one row" and tensor.shape[-2]:
        return tensor[..., :1, :].expand(tensor.shape)
    return tensor


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Any call that scaled_dot_product_attention accepts: shapes, layouts, masks, groups, precisions, magnitudes."""
    dtype = draw(st.sampled_from(DTYPES))
    query, key, value, enable_gqa = draw(shapes())
    seed = draw(st.integers(0, 2**20))
    magnitude = draw(st.sampled_from((1.0, 1.0, 1.0, 100.0)))  # 100² · |N(0, 1)|, scores of ±1e4
    tensors = (
        normal(*query, seed=seed) * magnitude,
        normal(*key, seed=seed + 1) * magnitude,
        normal(*value, seed=seed + 2),
    )
    query_, key_, value_ = (laid_out(t.to(dtype), draw(st.sampled_from(LAYOUTS))) for t in tensors)
    # What the scores' leading dimensions are: value's may be larger, and no mask may enlarge them.
    heads = query[-3:-2] if enable_gqa else torch.broadcast_shapes(query[-3:-2], key[-3:-2])
    matrix = (*torch.broadcast_shapes(query[:-3], key[:-3]), *heads, query[-2], key[-2])
    return Call(
        query_,
        key_,
        value_,
        attn_mask=draw(st.none() | masks(matrix, dtype)),
        is_causal=draw(st.booleans()),
        scale=draw(st.none() | st.sampled_from((0.0, 0.3, -0.5, 2.0))),
        enable_gqa=enable_gqa,
    )


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]:
    """Shapes of query, key and value that fit one another, and whether heads are grouped."""
    lengths = st.sampled_from(LENGTHS)
    q_len, k_len, head_dim = draw(lengths), draw(lengths), draw(st.sampled_from(DIMS))
    value_dim = draw(st.just(head_dim) | st.sampled_from(DIMS))
    rank = draw(st.sampled_from((2, 3, 4, 4, 4, 4, 5)))
    ends = (q_len, head_dim), (k_len, head_dim), (k_len, value_dim)
    if rank == 2:
        return (*ends, False)
    batch = draw(st.lists(st.sampled_from((1, 2, 3)), min_size=rank - 3, max_size=rank - 3))
    fused = draw(st.booleans())  # equal leading dimensions, as torch's fused kernel needs, or ones that broadcast
    size = st.booleans() if not fused else st.just(True)
    batches = [tuple(n if draw(size) else 1 for n in batch) for _ in range(3)]
    kv_heads = draw(st.sampled_from((1, 2, 3)))
    if draw(st.booleans()):
        groups = draw(st.sampled_from((1, 2, 3)))
        heads = (kv_heads * groups, kv_heads, kv_heads)
        return (*((*b, h, *e) for b, h, e in zip(batches, heads, ends, strict=True)), True)  # type: ignore[return-value]
    heads = tuple(kv_heads if draw(size) else 1 for _ in range(3))  # type: ignore[assignment]
    return (*((*b, h, *e) for b, h, e in zip(batches, heads, ends, strict=True)), False)  # type: ignore[return-value]


@st.composite
def masks(draw: st.DrawFn, matrix: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A bool or float mask that broadcasts to a matrix of scores, some of its rows with no key allowed."""
    rank = draw(st.integers(2, len(matrix)) | st.just(len(matrix)))
    shape = tuple(n if draw(st.integers(0, 3)) else 1 for n in matrix[-rank:])
    seed = draw(st.integers(0, 2**20))
    allowed = normal(*shape, seed=seed) < draw(st.sampled_from((-0.5, 0.5, 2.0)))
    if shape[-2]:
        allowed[..., seed % shape[-2], :] = False
    kind = draw(st.sampled_from(("bool", "bias", "bias and -inf", "float32", "extreme")))
    if kind == "bool":
        return allowed
    bias = normal(*shape, seed=seed + 1).to(torch.float32 if kind == "float32" else dtype)
    if kind == "extreme":
        bias = bias * 1e4
    return bias if kind == "bias" else bias.masked_fill(~allowed, -torch.inf)

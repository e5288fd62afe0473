"""Dropout in the forward kernels: the very weights that the hash says, whatever kernel runs the call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import pellucid
from pellucid import dropout, engines, masks, readouts
from tests.engines.cpu.calls import every_call
from tests.engines.cpu.test_batch import threads

# Heads, heads of keys, queries, keys, head_dim, value_dim.
SHAPES = {
    "one tile": (3, 3, 60, 70, 16, 32),
    "ragged": (3, 3, 61, 67, 13, 21),
    "several tiles": (4, 2, 301, 530, 33, 17),
    "few queries": (8, 2, 2, 1543, 16, 16),
    "one": (1, 1, 1, 1, 1, 1),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
KINDS = ("plain", "causal", "window", "documents by batch", "bool mask", "bias", "softcap", "sinks", "scale", "nobody")


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    heads, kv_heads, q_len, k_len, head_dim, value_dim = shape
    sizes = (heads, q_len, head_dim), (kv_heads, k_len, head_dim), (kv_heads, k_len, value_dim)
    return [torch.randn(2, *size).to(dtype) for size in sizes]


def observed(engine: str, tensors: list[Tensor], seed: int = 3, **call: Any) -> tuple[Tensor, pellucid.Observation]:
    with engines.using(engine):
        assert engines.why(*tensors, enable_gqa=True, **call).engine == engine
        torch.manual_seed(seed)
        return pellucid.observe(*tensors, enable_gqa=True, **call)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_weights_that_are_dropped(shape: str, dtype: torch.dtype) -> None:
    """Values of one key each tell its weight."""
    heads, kv_heads, q_len, k_len, head_dim, _ = SHAPES[shape]
    width = min(k_len, 200)
    query, key, _ = drawn((heads, kv_heads, q_len, k_len, head_dim, 1), dtype)
    for start in {0, k_len - width}:
        value = torch.eye(k_len)[:, start : start + width].to(dtype).expand(2, kv_heads, k_len, width)
        output, seen = observed("cpu", [query / 4, key / 4, value], dropout_p=0.4)
        assert torch.equal(output == 0, seen.dropped(keys=slice(start, start + width)))


@pytest.mark.sampled
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", ["one tile", "several tiles", "few queries"])
def test_any_call(shape: str, name: str) -> None:
    call = every_call((2, *SHAPES[shape]), torch.randn)[name]
    for dtype in DTYPES:
        tensors = drawn(SHAPES[shape], dtype)
        own = {n: t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t for n, t in call.items()}
        wide = {n: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for n, t in own.items()}
        found, _ = observed("cpu", tensors, dropout_p=0.3, **own)
        dense, _ = observed("reference", tensors, dropout_p=0.3, **own)
        exact, _ = observed("reference", [t.double() for t in tensors], dropout_p=0.3, **wide)
        allowed = 2 * (dense.double() - exact).abs().max() + 24 * torch.finfo(dtype).eps * (exact.abs().max() + 1)
        assert (found.double() - exact).abs().max() <= allowed, dtype


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", ["one tile", "several tiles"])
def test_readouts_come_before_it(shape: str, dtype: torch.dtype) -> None:
    tensors = drawn(SHAPES[shape], dtype)
    most = [pellucid.Entropy(), pellucid.TopK(3), pellucid.Received(), readouts.mean_distance()]
    for read in (most, [pellucid.Pooled(5, 7)], [*most, readouts.PooledMax(4, 9)]):
        output, dropped = observed("cpu", tensors, readouts=read, dropout_p=0.6, is_causal=True)
        _, whole = observed("cpu", tensors, readouts=read, is_causal=True)
        for name in dropped.readouts:
            one, other = dropped[name], whole[name]
            pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
            assert all(torch.equal(a, b) for a, b in pairs), name
        assert torch.equal(dropped.weights(), whole.weights())
        kept = dropped.weights().masked_fill(dropped.dropped(), 0.0) / 0.4
        exact = kept @ tensors[2].to(kept.dtype).repeat_interleave(kept.shape[1] // tensors[2].shape[1], 1)
        assert (output - exact).abs().max() < 8 * torch.finfo(dtype).eps * (1 + exact.abs().max())


def test_any_number_of_threads_drops_the_same() -> None:
    tensors = drawn(SHAPES["several tiles"])
    results = []
    for number in (1, 2, 3):
        with threads(number):
            results.append(observed("cpu", tensors, dropout_p=0.3, mask_mod=masks.sliding_window(100))[0])
    assert all(torch.equal(result, results[0]) for result in results[1:])


def test_whatever_else_is_in_the_batch_drops_the_same() -> None:
    """But for the number of the batch, by which it is told apart."""
    query, key, value = drawn(SHAPES["several tiles"])
    together, _ = observed("cpu", [query, key, value], dropout_p=0.3)
    alone, _ = observed("cpu", [query[:1], key[:1], value[:1]], dropout_p=0.3)
    assert torch.equal(together[:1], alone)


def test_nothing_is_kept_of_a_seed_or_a_probability() -> None:
    tensors = drawn(SHAPES["one tile"])
    first, again, other = (observed("cpu", tensors, seed, dropout_p=0.3)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for p in (0.1, 0.3, 0.0, 2.0**-40, 1.0):
        output, seen = observed("cpu", tensors, dropout_p=p)
        kept = seen.weights().masked_fill(seen.dropped(), 0.0) * dropout.scale(p)
        torch.testing.assert_close(output, kept @ tensors[2], rtol=1e-5, atol=1e-5)


def test_keys_beyond_32_bits() -> None:
    """Of which a mask leaves those beside the 2 ** 32nd."""
    k_len, few = 2**32 + 24, slice(2**32 - 24, 2**32 + 24)
    query, one = torch.zeros(1, 5, 1), torch.ones(1, 1, 1).expand(1, k_len, 1)
    mask = lambda b, h, q, k: k >= 2**32 - 24  # noqa: E731
    torch.manual_seed(3)
    with engines.using("cpu"):
        output = pellucid.attention(query, one, one, mask_mod=mask, dropout_p=0.5)
    torch.manual_seed(3)
    place = {"b": torch.zeros(1, 1, 1).long(), "h": torch.zeros(1, 1, 1).long(), "q": torch.arange(5)[:, None]}
    kept = dropout.kept(dropout.seed(), 0.5, place | {"k": torch.arange(few.start, few.stop)}, 1, 5, k_len)
    torch.testing.assert_close(output[..., 0], kept.float().mean(-1) * 2)


def test_a_checkpoint_drops_the_same_again() -> None:
    tensors = drawn(SHAPES["several tiles"])

    def gradients(attend: Any) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        torch.manual_seed(3)
        with engines.using("cpu"):
            output = attend(lambda *qkv: pellucid.attention(*qkv, dropout_p=0.3, enable_gqa=True), *leaves)
            return list(torch.autograd.grad(output.square().sum(), leaves))

    plain = gradients(lambda function, *leaves: function(*leaves))
    again = gradients(lambda function, *leaves: checkpoint(function, *leaves, use_reentrant=False))
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_a_seed_of_vmap_where_no_tensor_is_looked_through() -> None:
    x = torch.zeros(2, 16, 4)

    def attend(number: Tensor) -> Tensor:
        return pellucid.attention(x, x, torch.eye(16).expand(2, 16, 16), dropout_p=0.5) + number

    different = torch.vmap(attend, randomness="different")(torch.zeros(3))
    assert not torch.equal(different[0], different[1])
    same = torch.vmap(attend, randomness="same")(torch.zeros(3))
    assert torch.equal(same[0], same[1])

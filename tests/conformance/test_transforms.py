"""torch.func's transforms and forward-mode differentiation, against a loop, autograd and the dense formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import pellucid
from pellucid import masks, readouts, scores
from tests.cases import ENGINES, Call, assert_close, dense, largest, normal, running

EPS = torch.finfo(torch.float64).eps
QUERY, KEY, VALUE = (normal(3, 2, length, 4, seed=length) for length in (5, 7, 7))
SLOPES, SINKS, BIAS = normal(3, 2, seed=1), normal(3, 2, seed=2), normal(3, 5, 7, seed=3)

engines = pytest.mark.parametrize("engine", ENGINES)


def with_everything(query: Tensor, key: Tensor, value: Tensor, slopes: Tensor, sinks: Tensor, bias: Tensor) -> Tensor:
    return pellucid.attention(query, key, value, bias, score_mod=scores.alibi(slopes), mask_mod=CAUSAL, sinks=sinks)


CAUSAL = masks.causal(2)
# Functions of tensors whose first dimension is mapped over.
MAPPED: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "attention itself": (pellucid.attention, (QUERY, KEY, VALUE)),
    "causal": (lambda q, k, v: pellucid.attention(q, k, v, is_causal=True), (QUERY, KEY, VALUE)),
    "2-D": (pellucid.attention, (QUERY[:, 0], KEY[:, 0], VALUE[:, 0])),
    "one query for all": (lambda k, v: pellucid.attention(QUERY[0], k, v), (KEY, VALUE)),
    "every argument": (with_everything, (QUERY, KEY, VALUE, SLOPES, SINKS, BIAS)),
    "a mask of tensors": (
        lambda q, k, v, n: pellucid.attention(q, k, v, mask_mod=lambda b, h, q_idx, kv_idx: kv_idx < n),
        (QUERY, KEY, VALUE, torch.tensor([2, 7, 4])),
    ),
}


def of_the_first(function: Callable[..., Tensor], tensors: tuple[Tensor, ...], index: int) -> Tensor:
    return function(*(tensor[index] for tensor in tensors))


@engines
@pytest.mark.parametrize("name", MAPPED)
def test_vmap_is_a_loop(name: str, engine: str) -> None:
    function, tensors = MAPPED[name]
    with running(engine, (2, 3)):
        mapped = torch.vmap(function)(*tensors)
        looped = torch.stack([of_the_first(function, tensors, i) for i in range(3)])
    assert_close(mapped, looped, 64 * EPS * largest(looped))


@engines
def test_readouts_can_be_mapped(engine: str) -> None:
    asked = [readouts.Entropy(), readouts.MaxScore(), readouts.TopK(3), readouts.Received(), readouts.Pooled(2, 3)]

    def readings(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        _, seen = pellucid.observe(query, key, value, readouts=asked, is_causal=True)
        return seen.entropy, seen.max_scores, *seen.topk, seen.received, seen.pooled, seen.weights(keys=slice(1, 4))

    with running(engine, (2, 3)):
        mapped = torch.vmap(readings)(QUERY, KEY, VALUE)
        looped = [readings(QUERY[i], KEY[i], VALUE[i]) for i in range(3)]
    for result, expected in zip(mapped, map(torch.stack, zip(*looped, strict=True)), strict=True):
        assert_close(result, expected, 64 * EPS * (1 + largest(expected)))


@engines
def test_gradients_pass_through_vmap(engine: str) -> None:
    leaves = [tensor.clone().requires_grad_() for tensor in (QUERY, KEY, VALUE)]
    with running(engine, (2, 3)):
        torch.vmap(pellucid.attention)(*leaves).square().sum().backward()
    for leaf, expected in zip(leaves, dense_gradients(), strict=True):
        assert_close(leaf.grad, expected, 512 * EPS * (1 + largest(expected)))  # type: ignore[arg-type]


def dense_gradients() -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in (QUERY, KEY, VALUE)]
    return torch.autograd.grad(dense(Call(*leaves)).output.square().sum(), leaves)


@engines
@pytest.mark.parametrize("transform", ["grad", "vjp", "jacrev", "per sample"])
def test_gradients_of_torch_func(transform: str, engine: str) -> None:
    def loss(*tensors: Tensor) -> Tensor:
        return pellucid.attention(*tensors).square().sum()

    every = (0, 1, 2)
    derivative: dict[str, Callable[[], Any]] = {
        "grad": lambda: torch.func.grad(loss, every)(QUERY, KEY, VALUE),
        "vjp": lambda: torch.func.vjp(loss, QUERY, KEY, VALUE)[1](torch.ones((), dtype=torch.float64)),
        "jacrev": lambda: torch.func.jacrev(loss, every)(QUERY, KEY, VALUE),
        "per sample": lambda: torch.vmap(torch.func.grad(loss, every))(QUERY, KEY, VALUE),
    }
    with running(engine, (2, 3)):
        found = derivative[transform]()
    for result, expected in zip(found, dense_gradients(), strict=True):
        assert_close(result, expected, 512 * EPS * (1 + largest(expected)))


@pytest.mark.sampled
@engines
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own forward mode uses it
@pytest.mark.parametrize("way", ["jvp", "dual numbers", "mapped", "of what is mapped", "jacfwd"])
def test_forward_mode(way: str, engine: str) -> None:
    """A tangent is never dropped: it would be a derivative of 0 that nobody asked for."""
    tangents = tuple(normal(*tensor.shape, seed=9 + i) for i, tensor in enumerate((QUERY, KEY, VALUE)))
    gradients = zip(dense_gradients(), tangents, strict=True)
    expected = torch.stack([(gradient * tangent).sum() for gradient, tangent in gradients]).sum()

    def loss(*tensors: Tensor) -> Tensor:
        return pellucid.attention(*tensors).square().sum()

    with running(engine, (2, 3)):
        if way == "jvp":
            _, found = torch.func.jvp(loss, (QUERY, KEY, VALUE), tangents)
        elif way == "mapped":
            found = torch.vmap(lambda *both: torch.func.jvp(loss, both[:3], both[3:])[1])(
                QUERY, KEY, VALUE, *tangents
            ).sum()
        elif way == "of what is mapped":
            _, found = torch.func.jvp(lambda *t: torch.vmap(loss)(*t).sum(), (QUERY, KEY, VALUE), tangents)
        elif way == "jacfwd":
            columns = torch.func.jacfwd(loss, (0, 1, 2))(QUERY, KEY, VALUE)
            found = sum((column * tangent).sum() for column, tangent in zip(columns, tangents, strict=True))
        else:
            with forward_ad.dual_level():
                duals = map(forward_ad.make_dual, (QUERY, KEY, VALUE), tangents)
                found = forward_ad.unpack_dual(loss(*duals)).tangent
    assert_close(found, expected, 512 * EPS * (1 + largest(expected)))


@engines
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_hessian(engine: str) -> None:
    """Forward over reverse: second derivatives."""
    query, key, value = (tensor[0, :1, :3, :2] for tensor in (QUERY, KEY, VALUE))
    expected = torch.autograd.functional.hessian(lambda q: dense(Call(q, key, value)).output.square().sum(), query)
    with running(engine, (2, 3)):
        found = torch.func.hessian(lambda q: pellucid.attention(q, key, value).square().sum())(query)
    assert_close(found, expected, 512 * EPS * (1 + largest(expected)))


@engines
@pytest.mark.filterwarnings("ignore")  # torch says that jit is deprecated, and that lengths become constants
def test_a_traced_module_computes(engine: str) -> None:
    """Recorded operation by operation, with other numbers than it was traced with."""
    with running(engine):
        traced = torch.jit.trace(pellucid.attention, (QUERY, KEY, VALUE), check_trace=False)
    expected = dense(Call(-QUERY, KEY, VALUE)).output
    assert_close(traced(-QUERY, KEY, VALUE), expected, 64 * EPS * largest(expected))


@engines
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_dropout_follows_vmap_s_randomness(randomness: str, engine: str) -> None:
    x, value = torch.zeros(3, 2, 16, 4), torch.eye(16).expand(3, 2, 16, 16)
    with running(engine):
        dropped = torch.vmap(lambda q, v: pellucid.attention(q, q, v, dropout_p=0.5), randomness=randomness)(x, value)
        with pytest.raises(RuntimeError, match="randomness"):
            torch.vmap(lambda q: pellucid.attention(q, q, q, dropout_p=0.5))(x)
    assert ((dropped == 0).double().mean() - 0.5).abs() < 0.1
    assert torch.equal(dropped[0], dropped[1]) == (randomness == "same")


@pytest.mark.filterwarnings("ignore")  # torch.compile itself warns of this and that
def test_transforms_that_are_compiled() -> None:
    """The graph looks through each of them: no operator of ours is there that would drop a tangent."""
    tangent = normal(*QUERY.shape, seed=9)

    def transformed(query: Tensor, key: Tensor, value: Tensor, tangent: Tensor) -> tuple[Tensor, ...]:
        def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            output, seen = pellucid.observe(q, k, v, is_causal=True, readouts=[readouts.Entropy()])
            return output.square().sum() + seen.entropy.sum()

        of_each = torch.vmap(torch.func.grad(loss))(query, key, value)
        return of_each, torch.func.jvp(lambda q: loss(q, key, value), (query,), (tangent,))[1]

    torch._dynamo.reset()
    compiled = torch.compile(transformed, fullgraph=True, backend="aot_eager")
    found, exact = (function(QUERY, KEY, VALUE, tangent) for function in (compiled, transformed))
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
    assert exact[1].abs() > 1

"""Gradients: against finite differences, autograd of the dense formula, torch's own, and engine against engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from pellucid import masks as named
from pellucid import readouts, scores
from tests.cases import (
    DIFFERENTIABLE,
    Call,
    Dense,
    assert_close,
    dense,
    examples,
    laid_out,
    largest,
    masks,
    normal,
    running,
)
from tests.thorough import in_turn, thorough

EPS = torch.finfo(torch.float64).eps
TILE = (2, 3)

engines = pytest.mark.parametrize("engine", DIFFERENTIABLE)


@dataclass(frozen=True)
class Variant:
    """A call as a function of its tensors, of which those after query, key and value go where `options` puts them."""

    query: tuple[int, ...] = (1, 2, 3, 2)
    key: tuple[int, ...] = (1, 2, 5, 2)
    value: tuple[int, ...] = (1, 2, 5, 2)
    learned: tuple[tuple[int, ...], ...] = ()
    options: Callable[..., dict[str, Any]] = lambda *learned: {}

    def tensors(self) -> list[Tensor]:
        shapes = (self.query, self.key, self.value, *self.learned)
        return [normal(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


EMPTY_ROW = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]], dtype=torch.bool)
DOCUMENT = torch.tensor([0, 0, 1, 1, 2])
ORDER = torch.tensor([2, 0, 1, 2, 0])


def relative(table: Tensor) -> dict[str, Any]:
    return {"score_mod": lambda s, b, h, q, k: s * torch.sigmoid(table[h, ORDER[k]]) + table[h, q]}


def with_bias(bias: Tensor) -> dict[str, Any]:
    return {"attn_mask": bias}


def with_bias_and_empty_rows(bias: Tensor) -> dict[str, Any]:
    return {"attn_mask": bias.masked_fill(~EMPTY_ROW, -torch.inf)}


def expecting(table: Tensor) -> dict[str, Any]:
    return {"readouts": [readouts.Expect(lambda b, h, q, k: table[h, k] * (q - k) + table[h, q], "learned")]}


VARIANTS: dict[str, Variant] = {
    "plain": Variant(),
    "2-D": Variant((3, 2), (5, 2), (5, 3)),
    "3-D, value_dim 3": Variant((2, 3, 2), (2, 5, 2), (2, 5, 3)),
    "causal": Variant(options=lambda: {"is_causal": True}),
    "scale": Variant(options=lambda: {"scale": -0.7}),
    "bool mask with an empty row": Variant(options=lambda: {"attn_mask": EMPTY_ROW}),
    "no key at all": Variant(options=lambda: {"mask_mod": lambda b, h, q, k: k < 0}),
    "no keys": Variant(key=(1, 2, 0, 2), value=(1, 2, 0, 2)),
    "mask_mod, rows empty in one batch": Variant(
        (2, 2, 3, 2), (2, 2, 5, 2), (2, 2, 5, 2), options=lambda: {"mask_mod": lambda b, h, q, k: (k <= q) & (b > 0)}
    ),
    "groups": Variant((1, 4, 3, 2), options=lambda: {"enable_gqa": True}),
    "one group, causal": Variant(
        (1, 3, 3, 2), (1, 1, 5, 2), (1, 1, 5, 2), options=lambda: {"enable_gqa": True, "is_causal": True}
    ),
    "groups of key and value differ": Variant((1, 4, 3, 2), value=(1, 1, 5, 2), options=lambda: {"enable_gqa": True}),
    "key broadcasts over batches": Variant(query=(3, 2, 3, 2)),
    "query broadcasts over batches": Variant(key=(2, 2, 5, 2), value=(2, 2, 5, 2)),
    "value alone has batches": Variant(value=(2, 2, 5, 2)),
    "batches broadcast crosswise": Variant((2, 1, 2, 3, 2), (1, 2, 2, 5, 2), (2, 2, 1, 5, 2)),
    "heads broadcast": Variant((1, 3, 3, 2), (1, 1, 5, 2), (1, 3, 5, 2)),
    "mixed ranks": Variant((2, 2, 3, 2), (5, 2), (2, 5, 2)),
    "float mask": Variant(learned=((3, 5),), options=with_bias),
    "float mask that broadcasts": Variant((2, 2, 3, 2), learned=((2, 1, 1, 5),), options=with_bias),
    "float mask by head": Variant(learned=((2, 3, 1),), options=with_bias),
    "float mask with an empty row": Variant(learned=((3, 5),), options=with_bias_and_empty_rows),
    "sinks": Variant(learned=((2,),), options=lambda sinks: {"sinks": sinks}),
    "sinks and an empty row": Variant(learned=((2,),), options=lambda s: {"sinks": s, "attn_mask": EMPTY_ROW}),
    "sinks, groups, batches": Variant(
        (2, 4, 3, 2),
        learned=((4,),),
        options=lambda s: {"sinks": s, "enable_gqa": True, "mask_mod": lambda b, h, q, k: (k <= q) & (b != h)},
    ),
    "softcap": Variant(options=lambda: {"score_mod": scores.softcap(0.8)}),
    "alibi": Variant(learned=((2,),), options=lambda t: {"score_mod": scores.alibi(t)}),
    "T5": Variant(learned=((4, 2),), options=lambda t: {"score_mod": scores.relative_bias(t, max_distance=4)}),
    "a table read three ways": Variant(learned=((2, 3),), options=relative),
    "documents with sinks and a bias": Variant(
        learned=((2,), (3, 5)),
        options=lambda s, bias: {
            "sinks": s,
            "attn_mask": bias,
            "mask_mod": named.documents(DOCUMENT[:3], DOCUMENT) & named.causal(1),
        },
    ),
    "a score_mod that forbids": Variant(
        options=lambda: {"score_mod": lambda s, b, h, q, k: torch.where(k <= q, s * s, -float("inf"))}
    ),
    "Expect of a learned table": Variant(learned=((2, 5),), options=expecting),
    "Expect with sinks and an empty row": Variant(
        learned=((2, 5), (2,)), options=lambda t, s: expecting(t) | {"sinks": s, "attn_mask": EMPTY_ROW}
    ),
}

ROW_READOUTS = (readouts.LogSumExp(), readouts.Entropy(), readouts.MaxScore(), readouts.mean_distance())


def by_turns(names: Iterable[str]) -> list[Any]:
    """Every variant on one engine after the other every day, and more of the others where cases are thorough."""
    pairs = [(name, engine) for name in names for engine in DIFFERENTIABLE]
    return thorough(pairs, in_turn(names, DIFFERENTIABLE), share=25)


def results(query: Tensor, key: Tensor, value: Tensor, *learned: Tensor, variant: Variant) -> tuple[Tensor, ...]:
    """The output and every differentiable readout, an infinite one as 0: finite differences cannot tell."""
    options = variant.options(*learned)
    asked = [*ROW_READOUTS, *options.pop("readouts", ())]
    output, seen = pellucid.observe(query, key, value, **options, readouts=asked)
    found = (output, *(seen[readout.name] for readout in asked))
    return tuple(torch.where(tensor == -torch.inf, 0.0, tensor) for tensor in found)


@pytest.mark.sampled
@pytest.mark.parametrize(("name", "engine"), by_turns(VARIANTS))
def test_finite_differences(name: str, engine: str) -> None:
    variant = VARIANTS[name]
    with running(engine, TILE):
        assert torch.autograd.gradcheck(
            lambda *tensors: results(*tensors, variant=variant), variant.tensors(), check_undefined_grad=False
        )


@engines
@pytest.mark.parametrize("sink", [True, False])
def test_finite_differences_of_the_entropy_with_and_without_the_sink(sink: bool, engine: str) -> None:
    def entropy(query: Tensor, key: Tensor, sinks: Tensor) -> Tensor:
        asked = [readouts.Entropy(sink=sink)]
        _, seen = pellucid.observe(query, key, key, EMPTY_ROW, sinks=sinks, readouts=asked)
        return seen.entropy

    leaves = [normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(((1, 2, 3, 2), (1, 2, 5, 2), (2,)))]
    with running(engine, TILE):
        assert torch.autograd.gradcheck(entropy, leaves, check_undefined_grad=False)


@engines
def test_finite_differences_under_dropout(engine: str) -> None:
    """The backward pass drops what the forward pass dropped."""
    variant = Variant(learned=((2,),))

    def output(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor) -> Tensor:
        torch.manual_seed(5)
        return pellucid.attention(query, key, value, dropout_p=0.4, sinks=sinks)

    with running(engine, TILE):
        assert torch.autograd.gradcheck(output, variant.tensors(), check_undefined_grad=False)


TWICE = (
    "plain",
    "bool mask with an empty row",
    "groups",
    "float mask that broadcasts",
    "sinks",
    "a table read three ways",
    "Expect with sinks and an empty row",
)


@pytest.mark.parametrize(("name", "engine"), by_turns(TWICE))
def test_finite_differences_of_gradients(name: str, engine: str) -> None:
    variant = VARIANTS[name]
    with running(engine, TILE):
        assert torch.autograd.gradgradcheck(lambda *tensors: results(*tensors, variant=variant)[:3], variant.tensors())


@pytest.mark.sampled
@engines
def test_finite_differences_of_gradients_under_dropout(engine: str) -> None:
    def output(*tensors: Tensor) -> Tensor:
        torch.manual_seed(5)
        return pellucid.attention(*tensors, dropout_p=0.4)

    with running(engine, TILE):
        assert torch.autograd.gradgradcheck(output, VARIANTS["plain"].tensors())


def through_one_tensor(x: Tensor, attention: Callable[..., Tensor]) -> Tensor:
    """The tensor is query, key and value, what the value is made of, and the mask."""
    return attention(x, x.tanh(), x * x.sum(), x @ x.mT)


@engines
def test_a_tensor_that_is_in_several_places_is_counted_once_in_each(engine: str) -> None:
    found = []
    for function in (pellucid.attention, lambda *given: dense(Call(*given)).output):
        x = normal(1, 2, 5, 3).requires_grad_()
        with running(engine, TILE):
            loss = through_one_tensor(x, function).square().sum()
            (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), x, create_graph=True)
            found.append((gradient, second, *torch.autograd.grad(second.square().sum(), x)))
    for result, expected in zip(*found, strict=True):
        assert_close(result, expected, 512 * EPS * (1 + largest(expected)))


# Against autograd of the dense formula, on larger random calls.


@dataclass(frozen=True)
class Differentiated:
    """A call, its sinks, and the seed of the cotangents."""

    call: Call
    sinks: Tensor | None
    seed: int


@st.composite
def differentiated_calls(draw: st.DrawFn) -> Differentiated:
    lengths = st.sampled_from((0, 1, 2, 5, 13, 16, 17, 31))
    q_len, k_len, kv_heads = draw(lengths), draw(lengths), draw(st.sampled_from((1, 2)))
    heads = kv_heads * draw(st.sampled_from((1, 3)))
    batch = draw(st.sampled_from(((), (2,), (2, 3))))
    leading = [tuple(n if draw(st.booleans()) else 1 for n in batch) for _ in range(3)]
    seed = draw(st.integers(0, 2**20))
    layout = draw(st.sampled_from(("contiguous", "transposed", "every other")))
    shapes = ((heads, q_len, 5), (kv_heads, k_len, 5), (kv_heads, k_len, 3))
    query, key, value = (
        laid_out(normal(*b, *shape, seed=seed + i), layout)
        for i, (b, shape) in enumerate(zip(leading, shapes, strict=True))
    )
    matrix = (*torch.broadcast_shapes(leading[0], leading[1]), heads, q_len, k_len)
    mask = draw(st.none() | masks(matrix, torch.float64))
    sinks = draw(st.none() | st.just(normal(heads, seed=seed + 3)))
    return Differentiated(Call(query, key, value, mask, draw(st.booleans()), None, True), sinks, seed)


def dense_results(exact: Dense) -> tuple[Tensor, ...]:
    """Output, lse, entropy and mean distance, by plain torch. Where a row is empty its lse is a constant."""
    entropy = -(exact.weights * exact.weights.clamp(min=1e-300).log()).sum(-1)
    entropy = entropy - exact.sink_weight * exact.sink_weight.clamp(min=1e-300).log()
    q_len, k_len = exact.weights.shape[-2:]
    distance = (torch.arange(q_len)[:, None] - torch.arange(k_len)).abs()
    return (
        exact.output,
        exact.lse.masked_fill(exact.lse == -torch.inf, 0.0),
        entropy,
        (exact.weights * distance).sum(-1),
    )


def our_results(call: Call, sinks: Tensor | None) -> tuple[Tensor, ...]:
    asked = [readouts.LogSumExp(), readouts.Entropy(), readouts.mean_distance()]
    output, seen = call.by(pellucid.observe, sinks=sinks, readouts=asked)
    return output, seen.lse.masked_fill(seen.lse == -torch.inf, 0.0), seen.entropy, seen["mean_distance"]


def gradients(case: Differentiated, run: Callable[[Call, Tensor | None], tuple[Tensor, ...]]) -> list[Tensor]:
    """The gradients of a random combination of all results with respect to query, key, value, mask and sinks."""
    call, sinks = case.call, case.sinks
    mask = call.attn_mask
    leaves = {name: getattr(call, name).detach().clone().requires_grad_() for name in ("query", "key", "value")}
    if mask is not None and mask.dtype == torch.float64:
        leaves["attn_mask"] = mask.detach().clone().requires_grad_()
    sinks = sinks.clone().requires_grad_() if sinks is not None else None
    found = run(replace(call, **leaves), sinks)
    total = sum((normal(*r.shape, seed=case.seed + i) * r).sum() for i, r in enumerate(found))
    wanted = [*leaves.values(), *([] if sinks is None else [sinks])]
    given_ = torch.autograd.grad(total, wanted, allow_unused=True)  # type: ignore[arg-type]
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(wanted, given_, strict=True)]


@pytest.mark.sampled
@engines
def test_random_gradients_are_those_of_the_dense_formula(engine: str) -> None:
    @examples(60, engine)
    @given(case=differentiated_calls())
    def agree(case: Differentiated) -> None:
        exact = gradients(case, lambda call, sinks: dense_results(dense(call, sinks=sinks)))
        with running(engine):
            ours = gradients(case, our_results)
        mask = case.call.attn_mask
        reach = largest(mask) if mask is not None and mask.is_floating_point() else 0.0
        for result, expected in zip(ours, exact, strict=True):
            assert_close(result, expected, 512 * EPS * (1 + reach) * (1 + largest(expected)))

    agree()


def test_both_engines_have_the_same_gradients() -> None:
    for name, variant in VARIANTS.items():
        found = []
        for engine in DIFFERENTIABLE:
            with running(engine, TILE):
                leaves = variant.tensors()
                total = sum(
                    (normal(*r.shape, seed=i) * r).sum() for i, r in enumerate(results(*leaves, variant=variant))
                )
                found.append(torch.autograd.grad(total, leaves, allow_unused=True))  # type: ignore[arg-type]
        for other in found[1:]:
            for result, expected in zip(other, found[0], strict=True):
                result, expected = (torch.zeros(()) if t is None else t for t in (result, expected))
                assert not result.isnan().any(), name
                torch.testing.assert_close(
                    result.expand_as(expected), expected.expand_as(result), rtol=1e-10, atol=1e-12
                )


@engines
def test_the_lse_has_a_gradient_whether_it_was_asked_for_or_not(engine: str) -> None:
    call = Call(normal(2, 3, 5, 4), normal(2, 3, 7, 4, seed=1), normal(2, 3, 7, 4, seed=2), is_causal=True)
    weighting = normal(2, 3, 5, seed=3)
    found = []
    for asked in ([readouts.Entropy()], [readouts.LogSumExp()], []):
        leaves = [tensor.clone().requires_grad_() for tensor in (call.query, call.key)]
        with running(engine, TILE):
            _, seen = replace(call, query=leaves[0], key=leaves[1]).by(pellucid.observe, readouts=asked)
        found.append(torch.autograd.grad((seen.lse * weighting).sum(), leaves))
    leaves = [tensor.clone().requires_grad_() for tensor in (call.query, call.key)]
    exact = dense(replace(call, query=leaves[0], key=leaves[1])).lse
    expected = torch.autograd.grad((exact * weighting).sum(), leaves)
    for ours in found:
        for result, gradient in zip(ours, expected, strict=True):
            assert_close(result, gradient, 64 * EPS * (1 + largest(gradient)))


@engines
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_in_lower_precision(dtype: torch.dtype, engine: str) -> None:
    """At most twice the error of autograd through torch's own SDPA, and a few units in the last place."""
    call = Call(*(normal(2, 4, length, 16, dtype=dtype, seed=length) for length in (33, 47, 47)), is_causal=True)
    cotangent = normal(2, 4, 33, 16, seed=5)

    def differentiate(function: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.to(dtype).requires_grad_() for t in (call.query, call.key, call.value)]
        return torch.autograd.grad(Call(*leaves, is_causal=True).by(function), leaves, cotangent.to(dtype))

    exact = differentiate(lambda **given: dense(Call(**given)).output, torch.float64)
    peer = differentiate(torch.nn.functional.scaled_dot_product_attention, dtype)
    with running(engine, (16, 16)):
        ours = differentiate(pellucid.attention, dtype)
    for result, expected, theirs in zip(ours, exact, peer, strict=True):
        assert result.dtype == dtype
        units = 4 * torch.finfo(dtype).eps + 64 * torch.finfo(torch.float32).eps
        bound = 2 * (theirs.double() - expected).abs().max().item() + units * largest(expected)
        assert_close(result, expected, bound)


@engines
def test_gradients_have_their_tensor_s_shape_and_dtype(engine: str) -> None:
    sinks = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(4, 1, 7, requires_grad=True)
    query, key, value = (
        normal(*s, dtype=torch.bfloat16).requires_grad_() for s in ((2, 4, 5, 3), (2, 7, 3), (1, 7, 6))
    )
    with running(engine, (2, 2)):
        pellucid.attention(query, key, value, bias, enable_gqa=True, sinks=sinks).sum().backward()
    for leaf in (query, key, value, bias, sinks):
        assert leaf.grad is not None
        assert (leaf.grad.shape, leaf.grad.dtype) == (leaf.shape, leaf.dtype)


@engines
def test_only_what_requires_a_gradient_gets_one(engine: str) -> None:
    query, key, value = (normal(2, 5, 4, seed=i) for i in range(3))
    for which in range(3):
        leaves = [t.clone().requires_grad_(i == which) for i, t in enumerate((query, key, value))]
        with running(engine, (2, 2)):
            pellucid.attention(*leaves).square().sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == [i == which for i in range(3)]


@engines
@pytest.mark.parametrize("readout", [readouts.PooledMax(2, 2)])
def test_what_is_not_differentiable_does_not_pretend(readout: Any, engine: str) -> None:
    x = normal(5, 4).requires_grad_()
    with running(engine, (2, 2)):
        output, seen = pellucid.observe(x, x, x, readouts=[readout])
    reading = seen[readout.name]
    for tensor in (reading,) if isinstance(reading, Tensor) else reading:
        assert not tensor.requires_grad
    output.sum().backward()
    assert x.grad is not None
    assert not seen.weights().requires_grad


@engines
def test_a_tensor_changed_in_place_is_noticed(engine: str) -> None:
    query, key, value = (normal(2, 5, 4, seed=i).requires_grad_() for i in range(3))
    key_copy = key * 1.0
    with running(engine, (2, 2)):
        output = pellucid.attention(query, key_copy, value)
    with torch.no_grad():
        key_copy.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()

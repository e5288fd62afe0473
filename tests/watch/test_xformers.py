"""xFormers' memory_efficient_attention, of which a plain function stands in: the library itself is not needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid
from pellucid import engines

BATCH, HEADS, Q_LEN, K_LEN, DIM, VALUE_DIM = 2, 3, 7, 11, 5, 4


class LowerTriangularMask:
    """xFormers' causal mask: an object without numbers."""


class LowerTriangularFromBottomRightMask(LowerTriangularMask):
    """Another alignment, by a class of its own."""


def plain_weights(query: Tensor, key: Tensor, attn_bias: Any, scale: float | None) -> Tensor:
    """[batch, heads, q_len, k_len], of tensors of four dimensions."""
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if isinstance(attn_bias, LowerTriangularMask):
        diagonal = 1 if type(attn_bias) is LowerTriangularMask else 1 + key.shape[1] - query.shape[1]
        return scores.masked_fill(torch.ones(scores.shape[-2:]).triu(diagonal).bool(), -torch.inf).softmax(-1)
    return (scores if attn_bias is None else scores + attn_bias).softmax(-1)


def memory_efficient_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, p: float = 0.0, scale: float | None = None
) -> Tensor:
    """As xFormers has it, also by the name that this file has imported."""
    if query.ndim == 3:
        bias = attn_bias.unsqueeze(1) if isinstance(attn_bias, Tensor) and attn_bias.ndim == 3 else attn_bias
        return memory_efficient_attention(*(t.unsqueeze(2) for t in (query, key, value)), bias, p, scale).squeeze(2)
    weights = nn.functional.dropout(plain_weights(query, key, attn_bias, scale), p)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


PLAIN = memory_efficient_attention


@pytest.fixture(autouse=True)
def xops(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    ops = ModuleType("xformers.ops")
    ops.memory_efficient_attention = memory_efficient_attention  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    return ops


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The problems that engines were given."""
    problems: list[Any] = []
    own = engines.run
    monkeypatch.setattr(engines, "run", lambda problem: problems.append(problem) or own(problem))
    return problems


def through_the_module(*args: Any, **options: Any) -> Tensor:
    return sys.modules["xformers.ops"].memory_efficient_attention(*args, **options)


def by_name(*args: Any, **options: Any) -> Tensor:
    return memory_efficient_attention(*args, **options)


def by_keywords(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    return memory_efficient_attention(query=query, key=key, value=value, **options)


CALLED: list[Callable[..., Tensor]] = [through_the_module, by_name, by_keywords]


class Attention(nn.Module):
    def __init__(self, called: Callable[..., Tensor] = by_name, **options: Any) -> None:
        super().__init__()
        self.called, self.options = called, options

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.called(query, key, value, **self.options)


class Two(nn.Module):
    """One that attends in a way that is known, and another."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.known, self.other = Attention(), Attention(**options)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.known(*tensors) + self.other(*tensors)


def qkv(heads: int | None = HEADS, q_len: int = Q_LEN) -> tuple[Tensor, Tensor, Tensor]:
    generator, lead = torch.Generator().manual_seed(1), () if heads is None else (heads,)
    sizes = ((q_len, DIM), (K_LEN, DIM), (K_LEN, VALUE_DIM))
    query, key, value = (torch.randn(BATCH, length, *lead, dim, generator=generator) for length, dim in sizes)
    return query, key, value


def bias(*lead: int) -> Tensor:
    numbers = torch.randn(*lead, Q_LEN, K_LEN, generator=torch.Generator().manual_seed(2))
    return numbers.masked_fill(numbers < -1, -torch.inf)


@contextmanager
def accelerated(model: Any) -> Iterator[None]:
    pellucid.accelerate(model)
    try:
        yield
    finally:
        pellucid.restore(model)


HOW = {"accelerate": accelerated, "everywhere": lambda _: pellucid.everywhere(), "watch": pellucid.watch}
OPTIONS: list[tuple[int | None, dict[str, Any]]] = [
    (HEADS, {}),
    (HEADS, {"scale": 0.7}),
    (HEADS, {"attn_bias": LowerTriangularMask()}),
    (HEADS, {"attn_bias": bias(BATCH, HEADS)}),
    (HEADS, {"attn_bias": bias(1, 1), "scale": 1.3}),
    (HEADS, {"attn_bias": bias()}),
    (None, {}),
    (None, {"attn_bias": LowerTriangularMask()}),
    (None, {"attn_bias": bias(BATCH)}),
]


@pytest.mark.sampled
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("called", CALLED)
@pytest.mark.parametrize(("heads", "options"), OPTIONS)
def test_it_is_computed(
    how: str, called: Callable[..., Tensor], heads: int | None, options: dict[str, Any], computed: list[Any]
) -> None:
    model, tensors = Attention(called, **options), qkv(heads)
    expected = model(*tensors)
    assert not computed
    with HOW[how](model):
        found = model(*tensors)
    assert len(computed) == 1
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous()
    assert model(*tensors).equal(expected)
    assert len(computed) == 1
    assert sys.modules["xformers.ops"].memory_efficient_attention is memory_efficient_attention is PLAIN


@pytest.mark.sampled
@pytest.mark.parametrize("called", CALLED)
@pytest.mark.parametrize(("heads", "options"), OPTIONS)
def test_its_record_is_what_the_plain_weights_are(
    called: Callable[..., Tensor], heads: int | None, options: dict[str, Any]
) -> None:
    model, tensors = Attention(called, **options), qkv(heads)
    with pellucid.watch(model, keep=True) as record:
        model(*tensors)
    query, key = (t if heads else t.unsqueeze(2) for t in tensors[:2])
    of_bias = options.get("attn_bias")
    of_bias = of_bias.unsqueeze(1) if heads is None and isinstance(of_bias, Tensor) else of_bias
    weights = plain_weights(query, key, of_bias, options.get("scale"))
    (layer,) = record.values()
    assert (layer.batch, layer.heads, layer.q_len, layer.k_len) == tuple(weights.shape)
    assert not layer.by_hand
    torch.testing.assert_close(layer.weights(), weights)
    torch.testing.assert_close(layer.entropy, torch.special.entr(weights).sum(-1))


NOT_COMPUTED = [
    ({"attn_bias": LowerTriangularFromBottomRightMask()}, "LowerTriangularFromBottomRightMask"),
    ({"attn_bias": bias() > 0}, "bool"),
    ({"attn_bias": torch.zeros(1, 1, 1, K_LEN)}, "all queries"),
    ({"attn_bias": bias(HEADS)}, "of sequences or of heads"),
]


@pytest.mark.parametrize("how", ["accelerate", "everywhere"])
@pytest.mark.parametrize(("options", "reason"), NOT_COMPUTED)
def test_what_else_it_may_be_asked_is_the_librarys(how: str, options: dict[str, Any], reason: str) -> None:
    model, tensors = Attention(**options), qkv()
    expected = model(*tensors)
    with HOW[how](model):
        assert model(*tensors).equal(expected)


def test_precision_is_the_librarys(computed: list[Any]) -> None:
    """Autocast does not reach into it."""
    tensors = qkv()
    with torch.autocast("cpu", torch.bfloat16), pellucid.everywhere():
        Attention()(*tensors)
        assert not computed
        Attention()(*(tensor.bfloat16() for tensor in tensors))
    assert len(computed) == 1


@pytest.mark.parametrize(("options", "reason"), NOT_COMPUTED)
def test_what_else_it_may_be_asked_is_listed(options: dict[str, Any], reason: str) -> None:
    model, tensors = Two(**options), qkv()
    expected = model(*tensors)
    with pytest.warns(UserWarning, match=reason), pellucid.watch(model) as record:
        found = model(*tensors)
    torch.testing.assert_close(found, expected)
    assert record.layers == ["known"]
    assert [(missed.name, reason in missed.reason) for missed in record.missed] == [("other", True)]


@pytest.mark.parametrize("how", HOW)
def test_dropout_is_the_librarys_own_and_read_beside(how: str) -> None:
    model, tensors = Attention(p=0.5), qkv()
    torch.manual_seed(3)
    expected = model(*tensors)
    torch.manual_seed(3)
    with HOW[how](model) as record:
        found = model(*tensors)
    assert found.equal(expected)
    if how == "watch":
        weights = plain_weights(*tensors[:2], None, None)
        torch.testing.assert_close(record[0].entropy, torch.special.entr(weights).sum(-1))


@pytest.mark.parametrize("how", HOW)
def test_gradients_are_the_same(how: str) -> None:
    given, of_bias = [t.requires_grad_() for t in qkv()], bias(BATCH, HEADS).clamp(min=-3).requires_grad_()
    model, leaves = Attention(attn_bias=of_bias), [*given, of_bias]
    expected = torch.autograd.grad(model(*given).square().sum(), leaves)
    with HOW[how](model):
        found = torch.autograd.grad(model(*given).square().sum(), leaves)
    torch.testing.assert_close(found, expected)


def test_names_are_as_before_once_all_have_left(xops: ModuleType) -> None:
    one, other, tensors = Attention(), Attention(through_the_module), qkv()
    pellucid.accelerate(one)
    with pellucid.everywhere(), pellucid.watch(other) as record:
        other(*tensors)
        pellucid.restore(one)
        assert memory_efficient_attention is not PLAIN
    assert len(record) == 1
    assert xops.memory_efficient_attention is memory_efficient_attention is PLAIN


def test_without_the_library_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "xformers.ops")
    with pellucid.everywhere():
        assert memory_efficient_attention is PLAIN

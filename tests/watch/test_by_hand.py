"""Attention that models write out themselves is read from their scores, and no other softmax is taken for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pellucid

HEADS, WIDTH, LENGTH = 3, 24, 11
Weigh = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Written(nn.Module):
    """Projections, and a way of attending [batch, heads, length, head_dim] that gives weights and output."""

    def __init__(self, weigh: Weigh) -> None:
        super().__init__()
        self.project, self.weigh = nn.Linear(WIDTH, 3 * WIDTH), weigh
        self.weights: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.project(x).chunk(3, -1))
        self.weights, output = self.weigh(query, key, value)
        return output.transpose(1, 2).flatten(2)


def plain(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.softmax(query @ key.mT * 0.3, -1)
    return weights, weights @ value


def causal(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.matmul(query, key.transpose(-1, -2)).div_(3.0)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    return weights, torch.matmul(functional.dropout(weights, 0.1, False), value)


def in_float(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    weights = nn.Softmax(-1)((query @ key.mT).float())
    return weights, (weights.to(torch.bfloat16) @ value).float()


def batched(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """As Bloom: heads and batch are one dimension in the products, and two in the softmax."""
    flat = [t.reshape(-1, *t.shape[2:]) for t in (query, key, value)]
    bias = torch.linspace(-1, 1, LENGTH).expand(len(flat[0]), 1, -1)
    scores = torch.baddbmm(bias, flat[0], flat[1].mT, beta=0.5, alpha=0.4)
    weights = functional.softmax(scores.view(*query.shape[:2], *scores.shape[1:]), dim=-1, dtype=torch.float32)
    return weights, torch.bmm(weights.view(scores.shape), flat[2]).view(value.shape)


def flat(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """As XGLM: heads and batch are one dimension in the softmax too, and two where the mask is added."""
    own = [t.reshape(-1, *t.shape[2:]) for t in (query, key, value)]
    scores = torch.bmm(own[0], own[1].transpose(1, 2)).view(*query.shape[:2], LENGTH, LENGTH) + 0.3
    weights = functional.softmax(scores.view(-1, LENGTH, LENGTH), dim=-1)
    return weights.view(scores.shape), torch.bmm(weights, own[2]).view(value.shape)


def by_keyword(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.softmax(input=torch.matmul(input=query, other=key.mT), dim=3)
    assert weights.type() == "torch.FloatTensor"
    return weights, torch.matmul(input=functional.dropout(input=weights, training=False), other=value)


def einsum(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    weights = (torch.einsum("b h i d, b h j d -> b h i j", query, key) + 0.1).softmax(-1)
    return weights, torch.einsum("bhij,bjhe->bhie", weights, value.transpose(1, 2))


@pytest.fixture(autouse=True)
def _seed() -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.sampled
@pytest.mark.parametrize("weigh", [plain, causal, in_float, batched, flat, by_keyword, einsum])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_weights_are_the_models_own(weigh: Weigh, context: Any, tmp_path: Any) -> None:
    model, x = nn.Sequential(nn.Linear(WIDTH, WIDTH), Written(weigh)).eval(), torch.randn(2, LENGTH, WIDTH)
    with context():
        expected = model(x)
        with pellucid.watch(model, keep=True) as record:
            output = model(x)
    assert torch.equal(output, expected)
    assert (record.layers, record.missed) == (["1"], [])
    weights = model[1].weights
    for layer in (record[0], pellucid.open_record(record.save(tmp_path / "run.attn"))[0]):
        assert layer.by_hand
        assert (layer.heads, layer.value_dim) == (HEADS, WIDTH // HEADS)
        assert layer.role == ("causal self" if weigh is causal else "self")
        torch.testing.assert_close(layer.weights(), weights, atol=1e-6, rtol=0)
        torch.testing.assert_close(layer.entropy, torch.special.entr(weights).sum(-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(layer.received, weights.sum(-2), atol=1e-5, rtol=0)
    assert "a softmax of the model's own" in repr(record[0])
    assert "scores kept" in repr(record[0])
    assert record.planned_bytes >= weights.numel() * 4


def test_one_head_without_a_dimension_for_it() -> None:
    class Single(nn.Module):
        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            self.weights = (x @ context.mT).softmax(-1)
            return self.weights @ context

    model, inputs = Single(), (torch.randn(2, 5, 8), torch.randn(2, 7, 8))
    with pellucid.watch(model, keep=True) as record:
        model(*inputs)
    assert (record[0].role, record[0].batch, record[0].heads) == ("cross", 2, 1)
    torch.testing.assert_close(record[0].weights()[:, 0], model.weights, atol=1e-6, rtol=0)


def test_keys_that_no_query_may_look_at_are_padding() -> None:
    hidden = torch.zeros(2, 1, 1, LENGTH)
    hidden[0, ..., 7:] = -10_000.0

    def padded(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        weights = (query @ key.mT + hidden).softmax(-1)
        return weights, weights @ value

    model, x = Written(padded).eval(), torch.randn(2, LENGTH, WIDTH)
    with pellucid.watch(model, keep=True) as record:
        model(x)
    is_padding = hidden[:, 0, 0] < 0
    assert torch.equal(record[0].padding.keys, is_padding)
    assert torch.equal(record[0].entropy.isnan(), is_padding[:, None].expand(2, HEADS, LENGTH))
    assert record[0].allowed.keys[0].max() == 7
    torch.testing.assert_close(record[0].weights(), model.weights, atol=1e-6, rtol=0)


def test_weights_are_those_before_dropout_and_gradients_stay() -> None:
    def dropping(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        weights = (query @ key.mT).softmax(-1)
        return weights, functional.dropout(weights, 0.5) @ value

    model, x = Written(dropping), torch.randn(2, LENGTH, WIDTH)

    def gradient() -> Tensor:
        torch.manual_seed(3)
        model.zero_grad()
        with torch.enable_grad():
            model(x).sum().backward()
        return model.project.weight.grad.clone()

    expected = gradient()
    with pellucid.watch(model, keep=True) as record:
        assert torch.equal(gradient(), expected)
    assert not record[0].entropy.requires_grad
    torch.testing.assert_close(record[0].weights(), model.weights.detach(), atol=1e-6, rtol=0)


def test_layers_are_chosen_and_watches_nest() -> None:
    model, x = nn.Sequential(Written(plain), Written(causal)).eval(), torch.randn(2, LENGTH, WIDTH)
    with pellucid.watch(model, layers="1", heads=[2, 0], keep=True) as outer, pellucid.watch(model) as inner:
        model(x)
    assert (outer.layers, inner.layers) == (["1"], ["0", "1"])
    torch.testing.assert_close(outer[0].weights(), model[1].weights[:, [2, 0]], atol=1e-6, rtol=0)


# What is no attention.


class Other(nn.Module):
    """A softmax, and something done with it; beside it, attention that can be seen."""

    def __init__(self, apply: Callable[[Other, Tensor], Any]) -> None:
        super().__init__()
        self.apply_to, self.table, self.mix = apply, nn.Linear(WIDTH, LENGTH), nn.Linear(WIDTH, WIDTH)
        self.memory = nn.Parameter(torch.randn(1, LENGTH, WIDTH))
        self.attention = Written(plain)

    def forward(self, x: Tensor) -> Tensor:
        self.apply_to(self, x)
        return self.attention(x)


def classifier(own: Other, x: Tensor) -> Tensor:
    return own.table(x).softmax(-1).argmax(-1)


def soft_embedding(own: Other, x: Tensor) -> Tensor:
    return (x @ x.mT).softmax(-1) @ own.table.weight


def router(own: Other, x: Tensor) -> Tensor:
    experts = torch.stack([x * n for n in range(LENGTH)], -2)  # [batch, length, experts, width]
    return own.table(x).softmax(-1).unsqueeze(-2) @ experts


def mixture(own: Other, x: Tensor) -> Tensor:
    return own.table(x).softmax(-1) @ x


def linear_attention(own: Other, x: Tensor) -> Tensor:
    return x.softmax(-1) @ (x.softmax(-2).mT @ x)


def linear_attention_of_a_product(own: Other, x: Tensor) -> Tensor:
    return linear_attention(own, own.mix((x @ x.mT) @ x))


def memory(own: Other, x: Tensor) -> Tensor:
    return torch.matmul(x, own.memory.mT).softmax(-1) @ own.memory


def over_queries(own: Other, x: Tensor) -> Tensor:
    return (x @ x.mT).softmax(-2) @ x


def changed(own: Other, x: Tensor) -> Tensor:
    return ((x @ x.mT).softmax(-1) * 0.5) @ x


def overwritten(own: Other, x: Tensor) -> Tensor:
    weights = (x @ x.mT).softmax(-1)
    weights[..., 0] = 0.0
    return weights @ x


def multiplied_in_place(own: Other, x: Tensor) -> Tensor:
    weights = (x @ x.mT).softmax(-1)
    weights.view(-1).mul_(0.5)
    return weights @ x


def scores_overwritten(own: Other, x: Tensor) -> Tensor:
    scores = x @ x.mT
    weights = scores.softmax(-1)
    scores *= 2
    return weights @ x


@pytest.mark.parametrize(
    "apply",
    [
        classifier, soft_embedding, router, mixture, linear_attention, linear_attention_of_a_product, memory,
        over_queries, changed, overwritten, multiplied_in_place, scores_overwritten,
    ],
)  # fmt: skip
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_other_softmaxes_are_not_taken_for_it(apply: Any, context: Any) -> None:
    model, x = Other(apply).eval(), torch.randn(2, LENGTH, WIDTH)
    with context(), pellucid.watch(model) as record:
        model(x)
        model(x)
    assert record.layers == ["attention", "attention#2"]


def test_nothing_is_held_once_the_watch_is_over() -> None:
    from pellucid.capture.sources.by_hand import BY_HAND

    model, x = Other(classifier).eval(), torch.randn(2, LENGTH, WIDTH)
    held = []
    hook = model.register_forward_hook(lambda *_: held.append((x @ x.mT, len(BY_HAND.follower._scores))))
    with pellucid.watch(model):
        model(x)
    hook.remove()
    assert held[0][1]
    assert not BY_HAND.follower._scores
    assert not BY_HAND.follower._weights

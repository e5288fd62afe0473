"""What a model, or who calls it, does with its weights: inside `watch` and accelerated it gets what it got before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import pellucid
from pellucid import register, restore
from tests.watch import models

TOLERANCE = 1e-5
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}


@contextmanager
def accelerated(model: Any) -> Iterator[None]:
    pellucid.accelerate(model)
    try:
        yield
    finally:
        restore(model)


@contextmanager
def both(model: Any) -> Iterator[None]:
    with accelerated(model), pellucid.watch(model):
        yield


HOW = {"watch": pellucid.watch, "accelerate": accelerated, "both": both}
FIELDS = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")


def alike(found: Any, expected: Any) -> None:
    for field in FIELDS:
        own, others = getattr(found, field, None), getattr(expected, field, None)
        assert type(own) is type(others)
        for one, other in zip(own or (), others or (), strict=True):
            assert type(one) is type(other)
            if other is not None:
                assert one.requires_grad == other.requires_grad
                assert (one - other).abs().max() <= TOLERANCE


@pytest.mark.sampled
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["bert", "llama", "t5", "bart", "whisper", "vit", "gpt2"])
def test_a_model_returns_the_attentions_that_it_returned(name: str, implementation: str, how: str) -> None:
    model, inputs = models.made(name)
    models.set_all(model, implementation)
    expected = model(**inputs, output_attentions=True)
    with HOW[how](model):
        found = model(**inputs, output_attentions=True)
    alike(found, expected)
    if implementation == "eager":
        assert any(getattr(expected, field, None) for field in FIELDS)
    assert (found[0] - expected[0]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("how", HOW)
def test_weights_have_their_gradient_and_their_dropout(how: str) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, vocab_size=53, attention_probs_dropout_prob=0.3)
    model = transformers.BertModel._from_config(config, attn_implementation="eager").train()
    ids = torch.randint(3, 53, (2, 7))

    def learned() -> tuple[Any, list[Tensor]]:
        torch.manual_seed(5)
        model.zero_grad()
        outputs = model(ids, output_attentions=True)
        sum((weights**2).mean() for weights in outputs.attentions).backward()
        return outputs, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected, gradients = learned()
    with HOW[how](model):
        found, own = learned()
    assert any((weights == 0).any() for weights in expected.attentions)
    assert all(map(torch.equal, found.attentions, expected.attentions))
    assert all(map(torch.equal, own, gradients))


@pytest.mark.parametrize("how", HOW)
def test_contacts_are_predicted_from_attentions(how: str) -> None:
    torch.manual_seed(0)
    config = transformers.EsmConfig(
        **SIZES, vocab_size=33, pad_token_id=1, mask_token_id=32, position_embedding_type="rotary"
    )
    model = transformers.EsmModel(config).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    protein = torch.tensor([[0, 5, 6, 7, 8, 9, 2]])
    expected = model.predict_contacts(protein, torch.ones_like(protein))
    with HOW[how](model):
        found = model.predict_contacts(protein, torch.ones_like(protein))
    assert (found - expected).abs().max() <= TOLERANCE


def test_what_the_model_asks_for_is_in_the_record_too() -> None:
    model, inputs = models.made("llama")
    model.set_attn_implementation("eager")
    with pellucid.watch(model, keep=True) as record:
        outputs = model(**inputs, output_attentions=True)
    assert [layer.by_hand for layer in record.values()] == [False, False]
    rows = inputs["attention_mask"].bool()
    for layer, weights in zip(record.values(), outputs.attentions, strict=True):
        own = layer.weights().transpose(1, 2)[rows]
        assert (own - weights.transpose(1, 2)[rows]).abs().max() <= TOLERANCE


def test_a_generation_of_an_accelerated_eager_model_returns_its_weights() -> None:
    model, inputs = models.made("llama")
    model.set_attn_implementation("eager")
    options = {"max_new_tokens": 3, "output_attentions": True, "return_dict_in_generate": True, "pad_token_id": 0}
    expected = model.generate(**inputs, **options)
    with accelerated(model):
        found = model.generate(**inputs, **options)
    for one, other in zip(found.attentions, expected.attentions, strict=True):
        assert all((a - b).abs().max() <= TOLERANCE for a, b in zip(one, other, strict=True))


def test_who_asks_for_observations_by_the_name_gets_them() -> None:
    register()
    model, inputs = models.made("bert")
    model.set_attn_implementation("pellucid")
    for how in (pellucid.watch, accelerated):
        with how(model):
            outputs = model(**inputs, output_attentions=True)
        assert [type(seen) for seen in outputs.attentions] == [pellucid.Observation] * 2


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("how", HOW)
def test_the_weights_of_torchs_own_module(how: str, training: bool, averaged: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.MultiheadAttention(12, 2, batch_first=True, dropout=0.3)).train(training)
    x = torch.randn(2, 5, 12)

    def learned() -> list[Tensor]:
        torch.manual_seed(7)
        output, weights = model[0](x, x, x, average_attn_weights=averaged)
        return [output, weights, *torch.autograd.grad(weights.square().sum() + output.sum(), model[0].in_proj_weight)]

    called: Callable[..., Any] = lambda self, x: learned()  # noqa: E731
    caller = type("Caller", (nn.Module,), {"forward": called})()
    caller.model = model
    expected = caller(x)
    with HOW[how](caller):
        found = caller(x)
    for one, other in zip(found, expected, strict=True):
        assert one.requires_grad == other.requires_grad
        assert torch.equal(one, other)

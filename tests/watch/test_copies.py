"""Copies made while a model is watched, accelerated or served: what they are is what the model is without."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import pellucid
from pellucid import restore
from tests.watch import models


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved,
}


def encoder() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, 17, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval().requires_grad_(False)


def parts(model: nn.Module) -> list[tuple[Any, ...]]:
    """What may stick to the modules of a model."""
    return [
        (type(module), len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module)))
        for module in model.modules()
    ]


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_made_inside_a_watch_has_nothing_of_it(how: str) -> None:
    model, x = encoder(), torch.randn(2, 5, 12)
    before, expected = parts(model), model(x)
    with pellucid.watch(model) as record:
        copied, part = COPIES[how](model), COPIES[how](model.layers[1])
        assert len(record) == 0
        if how != "copy":  # whose layers are those of the model
            assert parts(copied) == before
            assert torch.equal(copied(x), expected)
            assert record.layers == []
        model(x)
    assert len(record) == 2
    assert parts(copied) == parts(model) == before
    assert type(part) is nn.TransformerEncoderLayer
    assert torch.equal(copied(x), expected)
    assert torch.equal(part(x), model.layers[1](x))
    with pellucid.watch(copied) as record:
        copied(x)
    assert len(record) == 2


def test_a_pickle_made_inside_a_watch_is_that_of_the_model() -> None:
    model = encoder()
    expected = pickle.dumps(model)
    with pellucid.watch(model):
        inside = pickle.dumps(model)
        model(torch.randn(2, 5, 12))
    assert inside == expected  # so whoever loads it needs no Pellucid


def test_the_state_of_a_model_is_saved_as_ever() -> None:
    model = encoder()
    keys = list(model.state_dict())
    with pellucid.watch(model):
        state = saved(model.state_dict())
        copied = encoder()
        copied.load_state_dict(state)
        model(torch.randn(2, 5, 12))
    assert list(state) == keys


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copied_model_of_transformers_has_its_own_settings(how: str, implementation: str) -> None:
    model, inputs = models.made("llama")
    model.set_attn_implementation(implementation)
    expected = model(**inputs).logits
    with pellucid.watch(model) as record:
        copied, config, part = (COPIES[how](thing) for thing in (model, model.config, model.model.layers[0].self_attn))
        assert torch.equal(copied(**inputs).logits, expected)
        model(**inputs)
    assert len(record) == 2
    assert {*models.settings(copied), config._attn_implementation, part.config._attn_implementation} == {implementation}
    assert type(config) is type(model.config)
    assert "generate" not in vars(copied)
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        copied.lm_head.weight.zero_()
    assert copied.generate(**inputs, **options)[:, -3:].eq(0).all()  # by its own weights, not those of the model


def test_a_class_that_makes_its_copies_itself_makes_them_of_its_own() -> None:
    class Made(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(width, 2)

        def __deepcopy__(self, memo: Any) -> Made:
            return self.__class__(self.attention.embed_dim)

        def forward(self, x: Any) -> Any:
            return self.attention(x, x, x)

    model = Made(6)
    with pellucid.watch(model):
        copied = copy.deepcopy(model)
        model(torch.randn(2, 5, 6))
    assert type(copied) is type(model) is Made


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_of_a_watched_accelerated_model_is_accelerated_alone(how: str) -> None:
    model, x = pellucid.accelerate(encoder()), torch.randn(2, 5, 12)
    expected = model(x)
    with pellucid.watch(model):
        copied = COPIES[how](model)
        model(x)
    before = parts(model)
    assert parts(copied)[1:] == before[1:]
    torch.testing.assert_close(copied(x), expected)
    restore(model)
    assert type(model) is nn.TransformerEncoder
    with pellucid.watch(copied) as record:
        copied(x)
    assert len(record) == 2


def test_a_copy_made_everywhere_is_the_model() -> None:
    model, inputs = models.made("bert")
    with pellucid.everywhere():
        copied = copy.deepcopy(model)
        model(**inputs)
    assert torch.equal(copied(**inputs)[0], model(**inputs)[0])
    assert parts(copied) == parts(model)

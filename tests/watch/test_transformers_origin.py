"""In whose place Pellucid attends: masks are the library's for whoever computes with them, causality is never a guess."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import masking_utils

import pellucid
from pellucid.watch.mask import LazyMask
from pellucid.watch.transformers_functions import mask_function
from pellucid.watch.transformers_names import is_alike, questions
from pellucid.watch.transformers_origin import FOR_EAGER, NAME, SETTING, origin_of
from tests.watch import models

TOLERANCE = 1e-5
PADDING = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])


def git() -> models.Model:
    """Attention written out that adds the library's mask, in a file that asks the registry for its images."""
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 31}
    config = transformers.GitConfig(**models.SIZES, vision_config=vision | {"image_size": 16, "patch_size": 8})
    return transformers.GitModel(config), models.left_padded()


def align() -> models.Model:
    """An encoder that only has eager attention, and whose modules say nothing of causality."""
    return transformers.AlignTextModel(transformers.AlignTextConfig(**models.SIZES)), {"input_ids": models.ids()}


def clap() -> models.Model:
    return transformers.ClapTextModel(transformers.ClapTextConfig(**models.SIZES)), {"input_ids": models.ids()}


def informer() -> models.Model:
    """A decoder half of whose attention is written out, and is given no mask by the library."""
    config = transformers.InformerConfig(
        prediction_length=7, context_length=13, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=31, decoder_ffn_dim=31,
        lags_sequence=[1, 2], num_time_features=1, attention_type="prob",
    )  # fmt: skip
    past, future = 13 + 2, 7
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "past_values": torch.rand(2, past, generator=generator), "past_observed_mask": torch.ones(2, past),
        "past_time_features": torch.rand(2, past, 1, generator=generator),
        "future_values": torch.rand(2, future, generator=generator),
        "future_time_features": torch.rand(2, future, 1, generator=generator),
    }  # fmt: skip
    return transformers.InformerModel(config), inputs


def hy_v4() -> models.Model:
    """Sparse attention that chooses keys by a mask under the library's names, by indices under any other."""
    models.needs((5, 23), "it has no HY V4")
    config = transformers.HYV4Config(
        **models.LATENT, index_topk=3, index_n_heads=2, index_head_dim=8, head_dim=8, experts_implementation="eager"
    )
    return transformers.HYV4Model(config), models.left_padded()


@contextmanager
def watched(model: Any) -> Iterator[Any]:
    with pellucid.watch(model):
        yield


@contextmanager
def accelerated(model: Any) -> Iterator[Any]:
    pellucid.accelerate(model)
    yield
    pellucid.restore(model)


@contextmanager
def everywhere(model: Any) -> Iterator[Any]:
    with pellucid.everywhere():
        yield


def made(maker: Callable[[], models.Model]) -> models.Model:
    """A model in whose outputs it matters where each head looks."""
    torch.manual_seed(0)
    model, inputs = maker()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model.eval().requires_grad_(False), inputs


@pytest.mark.parametrize("way", [watched, accelerated, everywhere])
@pytest.mark.parametrize("maker", [git, align, clap, informer, hy_v4])
def test_a_model_computes_what_it_computes_alone(maker: Callable[[], models.Model], way: Any) -> None:
    model, inputs = made(maker)
    torch.manual_seed(0)
    plain = model(**inputs)[0]
    with way(model):
        torch.manual_seed(0)
        found = model(**inputs)[0]
    rows = slice(None) if "attention_mask" not in inputs else inputs["attention_mask"].bool()
    own = plain.shape[:2] == models.ids().shape
    difference = (found - plain)[rows] if own else found - plain
    assert difference.abs().max() < TOLERANCE * plain.abs().max()


@pytest.mark.parametrize("maker", [git, align, hy_v4])
def test_the_weights_of_models_that_only_have_eager_attention_are_seen(maker: Callable[[], models.Model]) -> None:
    model, inputs = made(maker)
    with pellucid.watch(model, keep=True) as record:
        model(**inputs)
    assert record.missed == []
    assert len(record) == 2
    for layer in record.values():
        sums = layer.weights().sum(-1)[~torch.isinf(layer.lse)]
        assert (sums < 1 + TOLERANCE).all() if layer.has_sink else torch.allclose(sums, torch.ones_like(sums))


def test_an_encoder_set_to_pellucid_by_name_does_not_become_causal() -> None:
    model, inputs = made(align)
    plain = model(**inputs)[0]
    pellucid.watch_register() if False else __import__("pellucid.watch", fromlist=["register"]).register()
    model.set_attn_implementation("pellucid")
    assert (model(**inputs)[0] - plain).abs().max() < TOLERANCE * plain.abs().max()

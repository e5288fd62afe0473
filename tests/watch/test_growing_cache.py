"""The cache of an accelerated model grows in place, and means what the library's own does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import pellucid
from pellucid.accelerating.growing_cache import grow_in_place
from tests.watch import models


def pieces(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, 4, generator=generator) for length in lengths]


def both() -> tuple[Any, Any]:
    """The library's cache, and one that grows in place."""
    plain, growing = transformers.DynamicCache(), transformers.DynamicCache()
    grow_in_place(growing)
    return plain, growing


def held(cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return cache.layers[0].keys, cache.layers[0].values


@torch.no_grad()
def test_steps_are_written_where_there_is_room() -> None:
    plain, growing = both()
    places = set()
    for piece in pieces(5, 1, 1, 60, 1, 200, 1):
        for cache in (plain, growing):
            cache.update(piece, -piece, 0)
        torch.testing.assert_close(held(growing), held(plain), rtol=0, atol=0)
        places.add(growing.layers[0].keys.data_ptr())
    assert growing.get_seq_length() == plain.get_seq_length() == 269
    assert len(places) < 4  # 7 steps, and memory was reserved anew at most twice


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.crop(-2),
        lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
        lambda cache: cache.batch_select_indices(torch.tensor([1])),
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.reset(),
    ],
)
def test_what_else_is_done_to_a_cache_is_seen(change: Any) -> None:
    plain, growing = both()
    for cache in (plain, growing):
        for piece in pieces(5, 1):
            cache.update(piece, -piece, 0)
        change(cache)
        batch = 2 if cache.layers[0].keys is None else len(cache.layers[0].keys)
        for piece in pieces(1, 3):
            more = piece[:1].expand(batch, -1, -1, -1)
            cache.update(more, -more, 0)
    torch.testing.assert_close(held(growing), held(plain), rtol=0, atol=0)


def test_with_gradients_and_from_inference_mode_nothing_is_overwritten() -> None:
    _, growing = both()
    first, second = pieces(5, 1)
    key, _ = growing.update(first.requires_grad_(), -first, 0)
    whole, _ = growing.update(second.requires_grad_(), -second, 0)
    (whole.sum() + key.sum()).backward()
    assert torch.equal(first.grad, torch.full_like(first, 2.0))
    _, growing = both()
    with torch.inference_mode():
        growing.update(*pieces(5, 5), 0)
    with torch.no_grad():
        growing.update(*pieces(1, 1), 0)
    assert growing.get_seq_length() == 6


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["llama", "t5", "mistral"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_of_an_accelerated_model_is_the_models_own(name: str, beams: int) -> None:
    model, inputs = models.made(name)
    inputs = {key: value for key, value in inputs.items() if key != "decoder_input_ids"}
    options = {"max_new_tokens": 7, "min_new_tokens": 7, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    expected = model.generate(**inputs, **options, return_dict_in_generate=True)
    pellucid.accelerate(model)
    generated = model.generate(**inputs, **options, return_dict_in_generate=True)
    assert torch.equal(generated.sequences, expected.sequences)
    with pellucid.watch(model, keep=True) as record:
        model.generate(**inputs, **options)
    layer = next(layer for layer in record.values() if layer.role == "causal self")
    sums, alive = layer.weights().sum(-1), ~torch.isinf(layer.lse)
    torch.testing.assert_close(sums[alive], torch.ones_like(sums[alive]))

"""What the growing cache of an accelerated model has given out never changes, and copies of it grow apart."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import transformers

import pellucid
from pellucid.accelerating.growing_cache import grow_in_place
from tests.watch import caches, models


def growing() -> Any:
    cache = transformers.DynamicCache()
    grow_in_place(cache)
    return cache


def stepped(cache: Any, length: int, seed: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys that a step gives out, and what they should stay."""
    key = torch.randn(batch, 3, length, 5, generator=torch.Generator().manual_seed(seed))
    given = cache.update(key, -key, 0)[0]
    return given, given.clone()


def loaded(cache: Any) -> Any:
    file = io.BytesIO()
    torch.save(cache, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


CHANGES = {
    "crop": lambda cache: cache.crop(-2),
    "reorder": lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
    "nothing in its place": lambda cache: cache.reorder_cache(torch.tensor([0, 1])),
    "select": lambda cache: cache.batch_select_indices(torch.tensor([0, 1])),
    "repeat": lambda cache: cache.batch_repeat_interleave(1),
    "reset": lambda cache: cache.reset(),
}
COPIES = {
    "copied layer": lambda cache: _with_layer(cache, copy.copy(cache.layers[0])),
    "deepcopy": copy.deepcopy,
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
    "save": loaded,
}


def _with_layer(cache: Any, layer: Any) -> Any:
    other = copy.copy(cache)
    other.layers = [layer]
    return other


@torch.no_grad()
@pytest.mark.parametrize("change", sorted(CHANGES))
def test_what_was_given_out_stays(change: str) -> None:
    cache = growing()
    given = [stepped(cache, 7, 0), stepped(cache, 3, 1)]
    CHANGES[change](cache)
    given += [stepped(cache, 1, 2), stepped(cache, 1, 3)]
    assert all(torch.equal(now, then) for now, then in given)


@torch.no_grad()
@pytest.mark.parametrize("way", sorted(COPIES))
def test_copies_grow_apart(way: str) -> None:
    cache = growing()
    given = [stepped(cache, 7, 0), stepped(cache, 1, 1)]
    other = COPIES[way](cache)
    assert torch.equal(other.layers[0].keys, cache.layers[0].keys)
    given += [stepped(one, 1, seed) for seed, one in enumerate((cache, other, cache, other), start=2)]
    assert all(torch.equal(now, then) for now, then in given)
    assert cache.get_seq_length() == other.get_seq_length() == 10
    assert not torch.equal(other.layers[0].keys, cache.layers[0].keys)
    assert len(other.layers[0].keys) == 2


@torch.no_grad()
def test_keys_of_an_accelerated_model_stay_when_it_goes_back() -> None:
    model, _ = models.made("llama")
    pellucid.accelerate(model)
    cache = transformers.DynamicCache(config=model.config)
    model(models.ids(7), **caches.given(cache))
    model(models.ids(3), **caches.given(cache))
    keys, other = cache.layers[1].keys, copy.deepcopy(cache)
    before = keys.clone()
    cache.crop(-3)
    branches = [model(models.ids(2), **caches.given(one)).logits for one in (cache, other)]
    assert torch.equal(keys, before)
    assert torch.equal(other.layers[1].keys[:, :, :10], before)
    assert not torch.equal(*branches)


@torch.no_grad()
def test_plain_steps_still_write_in_place() -> None:
    cache = growing()
    stepped(cache, 7, 0)
    kept = [stepped(cache, 1, seed)[0] for seed in range(60)]  # kept alive, so that an address means one allocation
    assert len({keys.data_ptr() for keys in kept}) == 1


@torch.no_grad()
@pytest.mark.parametrize("by_name", [True, False])
def test_the_cache_grows_by_whatever_argument_it_is_given(by_name: bool) -> None:
    model, cache = pellucid.accelerate(models.made("llama")[0]), transformers.DynamicCache()
    ids = models.ids(7)
    if by_name:
        model(ids, **caches.given(cache))
    else:
        model(ids, None, None, cache)
    assert {type(layer).__name__ for layer in cache.layers} == {"GrowingLayer"}

"""Modules that call attention themselves beside a cache: positions are those of the cache, whatever mask is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import pellucid
from tests.watch import models
from tests.watch.same_record import assert_same

STEPS = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
READOUTS = [pellucid.Entropy(), pellucid.Received(), pellucid.TopK(3)]
LOWEST = torch.finfo(torch.float32).min


class Own(nn.Module):
    """Attention with a cache of transformers, and grouped heads that it repeats itself if `groups` is more than 1."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.groups = groups
        self.query, self.both = nn.Linear(12, 12), nn.Linear(12, 24 // groups)

    def forward(self, x: Tensor, cache: Any, mask: Tensor) -> Tensor:
        query = self.query(x).unflatten(-1, (4, 3)).transpose(1, 2)
        key, value = self.both(x).unflatten(-1, (-1, 6)).transpose(1, 2).chunk(2, -1)
        key, value = cache.update(key, value, 0)
        key, value = (tensor.repeat_interleave(self.groups, 1) for tensor in (key, value))
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def allowed(start: int, q_len: int, k_len: int) -> Tensor:
    return (torch.arange(k_len) <= torch.arange(start, start + q_len)[:, None])[None, None]


def infinite(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)


def lowest(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, LOWEST)


def alibi(mask: Tensor) -> Tensor:
    return infinite(mask) + torch.arange(1, 5).view(4, 1, 1) * 0.1 * torch.arange(mask.shape[-1])


MASKS: list[Callable[[Tensor], Tensor]] = [lambda mask: mask, infinite, lowest, alibi]
masked = pytest.mark.parametrize("masked", MASKS, ids=["bool", "infinite", "lowest", "alibi"])


def static(length: int) -> transformers.StaticCache:
    config = transformers.LlamaConfig(num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4)
    return transformers.StaticCache(config=config, max_cache_len=length)


class Buffers:
    """Memory for keys and values that a model has itself: no cache that anybody knows."""

    def __init__(self, length: int) -> None:
        self.held, self.end = [torch.zeros(2, 4, length, 3) for _ in range(2)], 0

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, ...]:
        start, self.end = self.end, self.end + key.shape[2]
        for held, new in zip(self.held, (key, value), strict=True):
            held[: len(new), :, start : self.end] = new
        return tuple(held[: len(key)] for held in self.held)


def run(model: Own, x: Tensor, cache: Any, room: int | None, masked: Any, starts: tuple[int, ...]) -> list[Tensor]:
    ends = (*starts[1:], x.shape[1])
    return [
        model(x[:, start:end], cache, masked(allowed(start, end - start, room or end)))
        for start, end in zip(starts, ends, strict=True)
    ]


@pytest.mark.sampled
@masked
@pytest.mark.parametrize("keep", [False, True])
def test_rows_taken_back_leave_whatever_the_mask_is(masked: Any, keep: bool) -> None:
    model, x, other = Own(), torch.randn(2, 11, 12), torch.randn(2, 12, 12)
    other[:, :10] = x[:, :10]
    cache = transformers.DynamicCache()
    with torch.no_grad(), pellucid.watch(model, READOUTS, keep=keep) as record:
        run(model, other, cache, None, masked, (0, 9))
        cache.crop(-2)
        model(x[:, 10:], cache, masked(allowed(10, 1, 11)))
    with torch.no_grad(), pellucid.watch(model, READOUTS, keep=keep) as plain:
        run(model, x, transformers.DynamicCache(), None, masked, (0, 9, 10))
    if masked is not MASKS[0]:  # what numbers forbid is counted as allowed, in each call's own keys
        del record[0].readings["allowed"], plain[0].readings["allowed"]
    assert_same(record, plain)


def test_rows_that_looked_ahead_stay() -> None:
    model, x, cache = Own(), torch.randn(1, 12, 12), transformers.DynamicCache()
    with torch.no_grad(), pellucid.watch(model, READOUTS) as record:
        model(x[:, :9], cache, infinite(allowed(0, 9, 9)))
        model(x[:, 9:], cache, torch.zeros(1, 1, 3, 12))
        cache.crop(-2)
        model(x[:, 10:11], cache, torch.zeros(1, 1, 1, 11))
    assert [(layer.start, layer.q_len) for layer in record.values()] == [(0, 12), (10, 1)]


@pytest.mark.sampled
@masked
@pytest.mark.parametrize("groups", [1, 2])
def test_a_static_cache_is_one_layer(masked: Any, groups: int) -> None:
    model, x = Own(groups), torch.randn(2, 13, 12)
    starts = (0, 7, 8, 9, 12)
    with torch.no_grad():
        outputs = run(model, x, static(17), 17, masked, starts)
        with pellucid.watch(model, READOUTS, keep=True) as record:
            watched = run(model, x, static(17), 17, masked, starts)
        with pellucid.watch(model, READOUTS, keep=True) as plain:
            run(model, x, transformers.DynamicCache(), None, masked, starts)
    torch.testing.assert_close(watched, outputs)
    assert len(record) == 1
    assert_same(record, plain)


@pytest.mark.parametrize("masked", [MASKS[0], infinite], ids=["bool", "infinite"])
def test_padding_is_not_the_room(masked: Any) -> None:
    model, x = Own(), torch.randn(2, 9, 12)
    real = torch.ones(2, 1, 1, 17, dtype=torch.bool)
    real[0, ..., :3] = False
    rows = (0, 7, 8)
    made = [lambda mask: masked(mask & real[..., : mask.shape[-1]]) for _ in range(2)]
    with torch.no_grad(), pellucid.watch(model, READOUTS, keep=True) as record:
        run(model, x, static(17), 17, made[0], rows)
    with torch.no_grad(), pellucid.watch(model, READOUTS, keep=True) as plain:
        run(model, x, transformers.DynamicCache(), None, made[1], rows)
    assert_same(record, plain)
    assert torch.equal(record[0].padding.keys[:, :9], ~real[:, 0, 0, :9])
    assert torch.equal(record[0].padding.queries[:, :7], ~real[:, 0, 0, :7])


def test_rows_that_the_lowest_number_masks_wholly_have_their_output() -> None:
    model, x, mask = Own(), torch.randn(1, 7, 12), lowest(allowed(0, 7, 17))
    mask[..., :2, :] = LOWEST
    with torch.no_grad():
        output = model(x, static(17), mask)
        with pellucid.watch(model) as record:
            torch.testing.assert_close(model(x, static(17), mask), output)
    assert record[0].k_len == 7


def test_room_that_is_looked_at_stays() -> None:
    model, x, cache = Own(), torch.randn(1, 7, 12), static(11)
    with torch.no_grad(), pellucid.watch(model, READOUTS, keep=True) as record:
        for _ in range(2):
            model(x[:, :3], cache, torch.ones(1, 1, 3, 11, dtype=torch.bool))
    assert [(layer.start, layer.q_len, layer.k_len) for layer in record.values()] == [(0, 6, 11)]


def test_a_run_that_is_watched_from_its_middle_has_its_positions() -> None:
    model, x, cache = Own(), torch.randn(1, 9, 12), transformers.DynamicCache()
    with torch.no_grad():
        model(x[:, :7], cache, allowed(0, 7, 7))
        with pellucid.watch(model, READOUTS) as record:
            model(x[:, 7:], cache, allowed(7, 2, 9))
    assert (record[0].start, record[0].role) == (7, "causal self")


@masked
def test_memory_of_a_models_own_is_one_layer(masked: Any) -> None:
    model, x, starts = Own(), torch.randn(2, 13, 12), (0, 7, 8, 9, 12)
    model.is_causal = True
    with torch.no_grad():
        outputs = run(model, x, Buffers(17), 17, masked, starts)
        with pellucid.watch(model, READOUTS, keep=True) as record:
            watched = run(model, x, Buffers(17), 17, masked, starts)
        with pellucid.watch(model, READOUTS, keep=True) as plain:
            run(model, x, transformers.DynamicCache(), None, masked, starts)
    torch.testing.assert_close(watched, outputs)
    assert_same(record, plain)
    assert not record.notes


def test_positions_that_nobody_knows_are_noted() -> None:
    model, x, cache = Own(), torch.randn(1, 9, 12), Buffers(17)
    model.is_causal = True
    with torch.no_grad():
        model(x[:, :7], cache, allowed(0, 7, 17))
        with pellucid.watch(model, READOUTS) as record:
            for row in (7, 8):
                model(x[:, row : row + 1], cache, allowed(row, 1, 17))
    assert record.notes == [
        "Own: where its queries stand among its keys is not known in every call; there they count from 0"
    ]


@pytest.mark.parametrize("batch", [1, 2])
def test_falcon_generates_with_a_static_cache(batch: int) -> None:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.FalconConfig(vocab_size=99, **sizes, attn_implementation="sdpa", eos_token_id=98)
    model = transformers.FalconForCausalLM(config).eval()
    ids = models.ids()[:batch, :9]
    mask = torch.ones_like(ids)
    mask[0, :batch] = 0
    with pellucid.watch(model, keep=True) as plain:
        text = model.generate(ids, attention_mask=mask, **STEPS)
    with pellucid.watch(model, keep=True) as record:
        assert torch.equal(model.generate(ids, attention_mask=mask, **STEPS, cache_implementation="static"), text)
    assert_same(record, plain)
    assert len(record) == 2


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_windows_cache_brings_the_last_keys(kind: str) -> None:
    def window(first: int, start: int, end: int, k_end: int) -> Tensor:
        query, key = torch.arange(start, end)[:, None], torch.arange(first, k_end)
        return ((key <= query) & (key > query - 5))[None, None]

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "sliding_window": 5}
    config, model, x = transformers.MistralConfig(**sizes), Own(), torch.randn(1, 12, 12)
    static_cache = transformers.StaticCache(config=config, max_cache_len=16)
    cache = static_cache if kind == "static" else transformers.DynamicCache(config=config)
    readouts = [pellucid.Entropy(), pellucid.readouts.mean_distance()]
    with torch.no_grad(), pellucid.watch(model, readouts) as plain:
        model(x, transformers.DynamicCache(), window(0, 0, 12, 12))
    with torch.no_grad(), pellucid.watch(model, readouts) as record:
        for start, end in ((0, 3), (3, 8), (8, 9), (9, 10), (10, 12)):
            length, first = cache.get_mask_sizes(end - start, 0)
            model(x[:, start:end], cache, window(first, start, end, first + length))
    assert_same(record, plain)

"""A generation that goes back leaves the record of its text: rows of what was taken back are no rows of it."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
import transformers

import pellucid
from tests.watch import caches, models
from tests.watch.same_record import assert_same, assert_same_layer, assert_same_reading

pytestmark = pytest.mark.filterwarnings("ignore:Passing `generation_config` together")
STEPS = {"max_new_tokens": 7, "min_new_tokens": 7, "do_sample": False, "pad_token_id": 0}
TURNS = ((0, slice(0, 7)), (1, slice(0, 7)), (1, slice(7, 8)), (0, slice(7, 11)), (1, slice(8, 11)))
READOUTS = [pellucid.Received(), pellucid.TopK(3), pellucid.Entropy()]


def one_sequence(name: str) -> models.Model:
    """A model, and the inputs of a single sequence, which assisted generation takes."""
    model, inputs = models.made(name)
    return model, {key: value[-1:] for key, value in inputs.items() if key != "decoder_input_ids"}


def cached(model: Any) -> transformers.DynamicCache:
    return transformers.DynamicCache(config=model.config)


def said(model: Any, ids: torch.Tensor, **options: Any) -> pellucid.Record:
    """The record of one pass over a text."""
    with torch.no_grad(), pellucid.watch(model, **options) as record:
        model(ids)
    return record


def gone_back(model: Any, ids: torch.Tensor, count: int, more: torch.Tensor, **options: Any) -> pellucid.Record:
    """The record of a text of which some tokens were taken back, and others came in their place."""
    cache = cached(model)
    with torch.no_grad(), pellucid.watch(model, **options) as record:
        model(ids, **caches.given(cache))
        cache.crop(-count)
        model(more, **caches.given(cache))
    return record


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("llama", "assistant"), ("mistral", "assistant"), ("t5", "assistant"),
        ("llama", "lookup"), ("gemma2", "lookup"), ("bloom", "lookup"), ("whisper", "lookup"),
    ],
)  # fmt: skip
def test_candidates_that_were_rejected_are_no_rows(name: str, way: str) -> None:
    model, inputs = one_sequence(name)
    if way == "assistant":
        torch.manual_seed(3)
        more: dict[str, Any] = {"assistant_model": models.MODELS[name]()[0].eval()}
    else:
        more = {"prompt_lookup_num_tokens": 3}
    for keep in (False, True):
        with pellucid.watch(model, keep=keep) as plain:
            text = model.generate(**inputs, **STEPS)
        with pellucid.watch(model, keep=keep) as record:
            assert torch.equal(model.generate(**inputs, **STEPS, **more), text)
        assert_same(record, plain)


def test_readouts_of_ones_own_and_some_heads_go_back_too() -> None:
    model, inputs = one_sequence("llama")
    options = {"readouts": [*READOUTS, pellucid.Pooled(3, 3)], "heads": [2, 0]}
    with pellucid.watch(model, **options, keep=[0]) as plain:
        model.generate(**inputs, **STEPS)
    with pellucid.watch(model, **options, keep=[0]) as record:
        model.generate(**inputs, **STEPS, prompt_lookup_num_tokens=3)
    assert_same(record, plain)
    assert "pooled" in record[0]
    assert "pooled" not in record[1]


def test_candidates_that_a_model_proposes_to_itself_are_no_rows() -> None:
    model, inputs = one_sequence("llama")
    with pellucid.watch(model) as plain:
        model.generate(**inputs, **STEPS)
    for more in ({"assistant_early_exit": 1}, {"assistant_model": model}):
        with pellucid.watch(model) as record:
            model.generate(**inputs, **STEPS, **more)
        assert_same(record, plain)


def test_an_assistant_is_watched_for_itself() -> None:
    model, inputs = one_sequence("llama")
    assistant, _ = models.made("llama")
    with pellucid.watch(model) as plain:
        text = model.generate(**inputs, **STEPS)
    with pellucid.watch(model) as record, pellucid.watch(assistant) as drafts:
        model.generate(**inputs, **STEPS, assistant_model=assistant)
    assert_same(record, plain)
    assert drafts.layers == plain.layers
    assert torch.equal(drafts.token_ids, text[:, : drafts.token_ids.shape[1]])


@pytest.mark.parametrize("keep", [False, True])
def test_a_cropped_cache_takes_its_rows_with_it(keep: bool) -> None:
    model, _ = models.made("llama")
    ids, other = models.ids(13), models.ids(5)
    cache = cached(model)
    with torch.no_grad(), pellucid.watch(model, READOUTS, keep=keep) as record:
        model(ids[:, :7], **caches.given(cache))
        for step in range(3):
            model(other[:, step : step + 1], **caches.given(cache))
        cache.crop(-4)  # one more than the steps
        model(ids[:, 6:11], **caches.given(cache))
        model(ids[:, 11:], **caches.given(cache))
        model(other, **caches.given(cache))
        cache.crop(-5)  # and nothing after it
    assert_same(record, said(model, ids, readouts=READOUTS, keep=keep))


def test_what_is_not_held_any_more_is_said_or_computed_from_what_was_kept() -> None:
    model, _ = models.made("llama")
    ids = models.ids(97)
    model.config.max_position_embeddings = 128
    whole = said(model, ids[:, :23], readouts=READOUTS, keep=True)
    with pytest.warns(UserWarning, match=r"layers.1.self_attn have no `received`"):
        record = gone_back(model, ids, 80, ids[:, 17:23], readouts=READOUTS, keep=[0])  # more rows than are held
    assert_same_layer(record[0], whole[0])
    assert "received" not in record[1]
    assert_same_reading(record[1].topk, whole[1].topk)


def test_sums_over_a_part_of_each_calls_queries_are_left_out() -> None:
    model, _ = models.made("llama")
    ids, readouts = models.ids(11), [pellucid.Received(queries=slice(-2, None))]
    with pytest.warns(UserWarning, match="have no `received`"):
        record = gone_back(model, ids, 3, ids[:, 8:], readouts=readouts)
    assert [set(layer.readings) for layer in record.values()] == [{"lse"}] * 2


def test_sequences_in_turn_keep_apart_by_their_caches() -> None:
    model, _ = models.made("llama")
    texts, both = (models.ids(11), models.ids(13)[:, :11]), (cached(model), cached(model))
    with torch.no_grad(), pellucid.watch(model, keep=True) as record:
        for number, stretch in TURNS:
            model(texts[number][:, stretch], **caches.given(both[number]))
    assert record.layers[2] == f"{record.layers[0]}#2"
    for number, text in enumerate(texts):
        expected = said(model, text, keep=True)
        for layer in range(2):
            assert_same_layer(record[2 * number + layer], expected[layer])


def test_a_copy_of_a_cache_is_a_sequence_of_its_own() -> None:
    model, _ = models.made("llama")
    ids, other = models.ids(11), models.ids(13)
    cache = cached(model)
    with torch.no_grad(), pellucid.watch(model) as record:
        model(ids[:, :7], **caches.given(cache))
        branch = copy.deepcopy(cache)
        model(other[:, 7:11], **caches.given(branch))
        model(ids[:, 7:], **caches.given(cache))
    expected = said(model, ids)
    assert [(layer.start, layer.q_len) for layer in record.values()] == [(0, 11), (0, 11), (7, 4), (7, 4)]
    assert_same_reading(record[0].entropy, expected[0].entropy)
    assert_same_reading(record[0].received, expected[0].received)


def test_a_cache_that_is_filled_again_is_another_text() -> None:
    model, _ = models.made("llama")
    with torch.no_grad(), pellucid.watch(model) as record:
        cache = transformers.StaticCache(config=model.config, max_cache_len=17)
        for length in (7, 5):
            model(models.ids(length), **caches.given(cache))
            model(models.ids(2), **caches.given(cache))
            cache.reset()
    assert [(layer.start, layer.q_len) for layer in record.values()] == [(0, 9), (0, 9), (0, 7), (0, 7)]
    with pellucid.watch(model) as record:
        for _ in range(2):
            model.generate(models.ids(7, 1), **STEPS, prompt_lookup_num_tokens=3)
    assert [layer.q_len for layer in record.values()] == [13] * 4


def test_a_stored_record_has_no_rows_that_were_taken_back(tmp_path: Any) -> None:
    model, inputs = one_sequence("llama")
    with pellucid.watch(model, keep=True) as plain:
        model.generate(**inputs, **STEPS)
    with pellucid.watch(model, keep=True, out=tmp_path / "run.attn"):
        model.generate(**inputs, **STEPS, prompt_lookup_num_tokens=3)
    assert_same(pellucid.open_record(tmp_path / "run.attn"), plain)


def test_a_cache_of_pellucid_goes_back_as_well() -> None:
    torch.manual_seed(0)
    layer = pellucid.nn.SelfAttention(12, 3, is_causal=True).eval()
    x, cache = torch.randn(2, 11, 12), pellucid.nn.KeyValueCache()
    with torch.no_grad(), pellucid.watch(layer, keep=True) as record:
        layer(x[:, :7], cache=cache)
        layer(-x[:, 7:10], cache=cache)
        cache.truncate(8)
        layer(-x[:, 8:], cache=cache)
        cache.truncate(7)
        layer(x[:, 7:], cache=cache)
    with torch.no_grad(), pellucid.watch(layer, keep=True) as whole:
        layer(x)
    assert_same(record, whole)


def test_beams_of_ones_own_leave_no_tokens_of_other_beams() -> None:
    model, _ = models.made("llama")
    ids = models.ids(9, 3)
    cache = cached(model)
    with torch.no_grad(), pellucid.watch(model) as record:
        model(ids[:, :7], **caches.given(cache))
        model(ids[:, 7:8], **caches.given(cache))
        cache.reorder_cache(torch.tensor([2, 0, 0]))
        model(ids[:, 8:], **caches.given(cache))
    assert record.token_ids is None
    assert "beyond_first_induction" not in record[0]
    assert "beyond_first_previous" in record[0]


def test_a_cache_filled_before_is_no_continuation_of_another_text() -> None:
    model, _ = models.made("llama")
    filled = cached(model)
    with torch.no_grad():
        model(models.ids(13)[:, :7], **caches.given(filled))
        with pellucid.watch(model, keep=True) as record:
            model(models.ids(7))
            model(models.ids(2), **caches.given(filled))
    assert [(layer.start, layer.q_len) for layer in record.values()] == [(0, 7), (0, 7), (7, 2), (7, 2)]


def test_caches_are_let_go_of_when_the_next_pass_begins() -> None:
    model, _ = models.made("llama")
    with torch.no_grad(), pellucid.watch(model) as record:
        past = [weakref.ref(caches.returned(model(models.ids(length)))) for length in (7, 5, 3)]
        assert [one() is None for one in past] == [True, True, False]
    gc.collect()
    assert past[-1]() is None
    assert len(record) == 6

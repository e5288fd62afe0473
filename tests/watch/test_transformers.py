"""Models of transformers: every weight is that of the model's own eager attention, and the model computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import pellucid
from pellucid import Record, register
from pellucid.record import runs
from tests.watch import models

TOLERANCE = 1e-5


def layers_of(record: Record, role: str) -> list[Any]:
    return [layer for layer in record.values() if role in ("any", layer.role)]


def of_tokens(difference: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """A difference of outputs [batch, length, ...] without rows of padding."""
    mask = inputs.get("attention_mask")
    return difference[mask.bool()] if mask is not None and mask.shape == difference.shape[:2] else difference


def largest(difference: Tensor, layer: Any) -> float:
    """The largest difference of weights in rows that have a key: eager spreads the others over masked keys."""
    empty = torch.isinf(layer.lse)[..., None]
    return difference.abs().masked_fill(empty, 0.0).max().item()


def eager_weights(model: Any, inputs: dict[str, Tensor]) -> dict[str, list[Any]]:
    return models.weights_by_role(models.eager(model, lambda: model(**inputs, output_attentions=True)))


@pytest.mark.parametrize("name", models.MODELS)
def test_every_weight_is_eagers_and_the_output_stays(name: str) -> None:
    model, inputs = models.made(name)
    before = models.settings(model)
    plain = model(**inputs)[0]
    outputs = models.eager(model, lambda: model(**inputs, output_attentions=True))
    with pellucid.watch(model, keep=True) as record:
        watched = model(**inputs)[0]
    assert models.settings(model) == before
    assert of_tokens(watched - plain, inputs).abs().max() < TOLERANCE
    assert of_tokens(watched - outputs[0], inputs).abs().max() < TOLERANCE
    assert record.missed == []
    seen = 0
    for role, expected in models.weights_by_role(outputs).items():
        layers = layers_of(record, role)
        assert len(layers) == len(expected)
        seen += len(layers)
        for layer, weights in zip(layers, expected, strict=True):
            assert layer.weights().shape == weights.shape
            assert largest(layer.weights() - weights, layer) < TOLERANCE
    assert seen == len(record) > 0


def test_layers_are_named_and_tagged_by_the_module_that_attends() -> None:
    def roles(name: str) -> dict[str, str]:
        model, inputs = models.made(name)
        with pellucid.watch(model) as record:
            model(**inputs)
        return {layer.name: layer.role for layer in record.values()}

    assert roles("bert") == {f"encoder.layer.{i}.attention.self": "self" for i in range(2)}
    assert roles("llama") == {f"model.layers.{i}.self_attn": "causal self" for i in range(2)}
    t5 = {f"encoder.block.{i}.layer.0.SelfAttention": "self" for i in range(2)}
    for i in range(2):
        t5 |= {f"decoder.block.{i}.layer.0.SelfAttention": "causal self"}
        t5 |= {f"decoder.block.{i}.layer.1.EncDecAttention": "cross"}
    assert roles("t5") == t5


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["bert", "llama", "gemma2", "t5"])
def test_readouts_are_those_of_the_eager_weights_without_padding(name: str) -> None:
    model, inputs = models.made(name)
    outputs = models.eager(model, lambda: model(**inputs, output_attentions=True))
    readouts = [pellucid.Entropy(), pellucid.Received(), pellucid.readouts.mass_on_first(), pellucid.Pooled(3, 3)]
    readouts.append(pellucid.PooledMax(1, 1000))
    with pellucid.watch(model, readouts) as record:
        model(**inputs)
    for role, expected in models.weights_by_role(outputs).items():
        for layer, weights in zip(layers_of(record, role), expected, strict=True):
            padded, padded_keys = layer.padding
            tokens = torch.ones(layer.batch, layer.q_len) if padded is None else (~padded).float()
            if role != "cross" and layer.q_len == models.LENGTH:
                assert torch.equal(tokens, inputs["attention_mask"].float())
            entropy = torch.special.entr(weights).sum(-1)
            rows = (tokens == 0)[:, None].expand_as(entropy)
            assert layer.entropy[rows].isnan().all()
            assert layer.mass_on_first[rows].isnan().all()
            torch.testing.assert_close(layer.entropy[~rows], entropy[~rows], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(layer.mass_on_first[~rows], weights[..., 0][~rows], atol=1e-6, rtol=1e-5)
            counted = weights * tokens[:, None, :, None]
            received = counted.sum(-2)
            if padded_keys is not None:
                received = received.masked_fill(padded_keys[:, None], torch.nan)
            torch.testing.assert_close(layer.received, received, atol=1e-5, rtol=1e-5, equal_nan=True)
            torch.testing.assert_close(layer.pooled, pooled(counted, tokens, 3), atol=1e-5, rtol=1e-5, equal_nan=True)
            torch.testing.assert_close(layer.pooled_max, counted.amax(-2, keepdim=True), atol=1e-5, rtol=1e-5)


def pooled(counted: Tensor, tokens: Tensor, bins: int) -> Tensor:
    """Means over each bin's tokens of the sums over bins of keys."""
    q_len, k_len = counted.shape[-2:]
    by_query = torch.nn.functional.one_hot(torch.arange(q_len) * bins // q_len, bins).float()
    by_key = torch.nn.functional.one_hot(torch.arange(k_len) * bins // k_len, bins).float()
    return by_query.mT @ counted @ by_key / (tokens @ by_query)[:, None, :, None]


@pytest.mark.sampled
@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "gpt_oss", "t5", "whisper", "gpt2", "deepseek_v3", "bloom", "xglm"]
)
def test_generation_is_one_map_a_layer(name: str, cache: str | None) -> None:
    model, inputs = models.made(name)
    inputs = {key: value for key, value in inputs.items() if key != "decoder_input_ids"}
    config = transformers.GenerationConfig(
        max_new_tokens=5, min_new_tokens=5, do_sample=False, return_dict_in_generate=True, pad_token_id=0,
        decoder_start_token_id=1, bos_token_id=1, cache_implementation=cache,
    )  # fmt: skip
    config.output_attentions = True
    expected = models.eager(model, lambda: model.generate(**inputs, generation_config=config))
    config.output_attentions = False
    with pellucid.watch(model, keep=True) as record:
        generated = model.generate(**inputs, generation_config=config)
    assert torch.equal(expected.sequences, generated.sequences)
    for role, field in (
        ("causal self", "attentions"),
        ("causal self", "decoder_attentions"),
        ("cross", "cross_attentions"),
    ):
        steps = getattr(expected, field, None)
        for number, layer in enumerate(layers_of(record, role)) if steps else ():
            assert layer.calls == len(steps) == 5
            row = 0
            for step in steps:
                check_step(layer, step[number], row)
                row += step[number].shape[2]
            assert runs.starts(layer.call_rows) == [0, *range(row - 4, row)]
            assert row == layer.q_len == layer.lse.shape[2] == layer.entropy.shape[2]


def check_step(layer: Any, weights: Tensor, row: int) -> None:
    """One step's rows are eager's; a window's cache has lost its first keys, a static cache has keys to come."""
    q_len, k_len = weights.shape[2:]
    rows = slice(row, row + q_len)
    first = 0 if layer.role == "cross" else max(0, row + q_len - k_len)
    mine = layer.weights(queries=rows, keys=slice(first, first + k_len))
    difference = mine - weights[..., : mine.shape[-1]]
    assert difference.abs().masked_fill(torch.isinf(layer.lse[:, :, rows])[..., None], 0.0).max() < TOLERANCE


def test_a_prompt_in_pieces_reads_like_the_whole() -> None:
    model, _ = models.made("mistral")
    ids = models.ids(12)
    with pellucid.watch(model, keep=True) as whole:
        output = model(input_ids=ids, use_cache=False).logits
    cache = transformers.DynamicCache(config=model.config)
    with pellucid.watch(model, keep=True) as record:
        pieces = [model(input_ids=ids[:, a:b], **{models.CACHE: cache}).logits for a, b in ((0, 7), (7, 9), (9, 12))]
    assert (torch.cat(pieces, 1) - output).abs().max() < TOLERANCE
    layer, expected = record[1], whole[1]
    assert (layer.calls, layer.q_len, layer.k_len) == (3, 12, 12)
    assert len(layer.parts) > 1  # the window's cache forgets keys, so that no one key tensor serves all rows
    torch.testing.assert_close(layer.weights(), expected.weights(), atol=1e-6, rtol=0)
    for name in ("lse", "entropy", "received", "beyond_first_distance", "beyond_first_induction"):
        torch.testing.assert_close(layer.readings[name], expected.readings[name], atol=1e-5, rtol=1e-5)


def test_beams_that_change_places_keep_their_own_keys() -> None:
    model, inputs = models.made("llama")
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    with pellucid.watch(model, keep=True) as record:
        model.generate(**inputs, **options)
    sums = record[0].weights().sum(-1)
    assert record[0].batch == 6
    alive = ~torch.isinf(record[0].lse)
    torch.testing.assert_close(sums[alive], torch.ones_like(sums[alive]))


def test_packed_rows_and_masks_of_ones_own() -> None:
    model, _ = models.made("llama")
    places = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]])
    packed = {"input_ids": models.ids(12, 1), "position_ids": places, "use_cache": False}
    forbidden = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(0)) > 0.6
    forbidden &= ~torch.eye(7, dtype=torch.bool)
    added = torch.zeros(2, 1, 7, 7).masked_fill(forbidden, torch.finfo(torch.float32).min)
    own = {"input_ids": models.ids(7), "attention_mask": added}
    for inputs, watched in ((packed, packed), (own, own), (own, own | {"attention_mask": ~forbidden})):
        outputs = models.eager(model, lambda inputs=inputs: model(**inputs, output_attentions=True))
        with pellucid.watch(model, keep=True) as record:
            output = model(**watched)
        assert (output.logits - outputs.logits).abs().max() < TOLERANCE
        assert (record[1].weights() - outputs.attentions[1]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_output_attentions_gives_observations_under_the_own_name(name: str) -> None:
    model, inputs = models.swappable(name)
    expected = eager_weights(model, inputs)
    register()
    models.set_all(model, "pellucid")
    outputs = model(**inputs, output_attentions=True)
    found = models.weights_by_role(outputs)
    assert found.keys() == expected.keys()
    for role, observations in found.items():
        for observation, weights in zip(observations, expected[role], strict=True):
            assert isinstance(observation, pellucid.Observation)
            rows = ~torch.isinf(observation.lse)
            torch.testing.assert_close(observation.weights()[rows], weights[rows], atol=1e-5, rtol=0)


def test_generation_gives_observations_under_the_own_name() -> None:
    register()
    model, _ = models.made("llama")
    model.set_attn_implementation("pellucid")
    generated = model.generate(
        models.ids(), max_new_tokens=3, output_attentions=True, return_dict_in_generate=True, pad_token_id=0
    )
    assert [type(seen) for seen in generated.attentions[2]] == [pellucid.Observation] * 2


def test_a_model_asked_for_by_name_stands_under_sdpa() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    registries = ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS
    before = [registry["sdpa"] for registry in registries]
    model, inputs = models.made("deepseek_v32")
    other, its_inputs = models.made("llama")
    expected = other(**its_inputs).logits
    with pellucid.watch(model) as record:
        assert model.config._attn_implementation == "sdpa"
        assert [registry["sdpa"] for registry in registries] != before
        model(**inputs)
        assert torch.equal(other(**its_inputs).logits, expected)  # another model on sdpa is none of our business
    assert len(record) == 2
    assert [registry["sdpa"] for registry in registries] == before


@pytest.mark.parametrize("value", [0.5, 0, False, True, torch.zeros(1)])
def test_an_unknown_argument_refuses_the_layer(value: Any) -> None:
    model, inputs = models.made("llama")
    attention = type(model.model.layers[0].self_attn)
    original = attention.forward

    def passing(self: Any, *args: Any, **options: Any) -> Any:
        more = {"tilt": value, "slant": None} if self.layer_idx == 1 else {}
        return original(self, *args, **options, **more)

    plain = model(**inputs).logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "forward", passing)
        told = "Tensor" if isinstance(value, Tensor) else repr(value)
        refused = f"tilt: an argument of the attention call that is not known to change nothing, got {told}$"
        with pytest.warns(UserWarning, match=refused), pellucid.watch(model) as record:
            output = model(**inputs).logits
    assert record.layers == ["model.layers.0.self_attn"]
    assert [missed.name for missed in record.missed] == ["model.layers.1.self_attn"]
    assert of_tokens(output - plain, inputs).abs().max() < TOLERANCE


def test_sizes_of_images_that_are_passed_along_refuse_nothing() -> None:
    models.needs((5, 23), "it has no LFM3-VL")
    from transformers.models.lfm3_vl import configuration_lfm3_vl, modeling_lfm3_vl

    torch.manual_seed(0)
    config = configuration_lfm3_vl.Lfm3VlVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        patch_size=4, layer_types=["conv", "full_attention"],
    )  # fmt: skip
    model = modeling_lfm3_vl.Lfm3VlVisionModel(config).eval().requires_grad_(False)
    patches, sizes = torch.randn(16 + 12, 3 * 2 * 4 * 4), torch.tensor([[1, 4, 4], [1, 2, 6]])
    plain = model(patches, grid_thw=sizes)[0]
    with pellucid.watch(model) as record:
        output = model(patches, grid_thw=sizes)[0]
    assert (output - plain).abs().max() < TOLERANCE
    assert [(layer.q_len, layer.role) for layer in record.values()] == [(16, "self"), (12, "self")]


def test_training_gives_the_same_gradients_with_checkpoints_too() -> None:
    torch.manual_seed(0)
    model = models.llama()[0].train()
    ids = models.ids()

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    expected = gradients()
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable()
        with pellucid.watch(model) as record:
            found = gradients()
        assert record.layers == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
        assert not record[0].entropy.requires_grad
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_layer_that_runs_twice_and_a_second_input_are_kept_apart() -> None:
    config = transformers.AlbertConfig(**models.SIZES, embedding_size=16)
    albert = transformers.AlbertModel(config).eval().requires_grad_(False)
    with pellucid.watch(albert) as record:
        albert(**models.right_padded())
    name = "encoder.albert_layer_groups.0.albert_layers.0.attention"
    assert record.layers == [name, f"{name}#2"]
    bert, inputs = models.made("bert")
    with pellucid.watch(bert) as record:
        bert(**inputs)
        bert(input_ids=models.ids(5))
    assert [layer.q_len for layer in record.values()] == [13, 13, 5, 5]
    assert record.layers[2] == "encoder.layer.0.attention.self#2"


def test_precision_follows_autocast_and_inference_mode_is_no_obstacle() -> None:
    model, inputs = models.made("llama")
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(**inputs).logits
        with pellucid.watch(model, keep=True) as record:
            output = model(**inputs).logits
    assert record[0].query.dtype == torch.bfloat16
    assert of_tokens(output - plain, inputs).abs().max() < 2e-2
    with torch.inference_mode(), pellucid.watch(model, keep=True) as record:
        model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, pad_token_id=0)
    torch.testing.assert_close(record[0].weights()[1].sum(-1), torch.ones(4, 15))


def test_a_model_that_turns_to_eager_meanwhile_is_seen_all_the_same_and_restored() -> None:
    model, inputs = models.made("whisper")
    model.generation_config.alignment_heads = [[0, 1], [1, 2]]
    model.generation_config.no_timestamps_token_id = 98
    with pellucid.watch(model, keep=True) as plain:
        generated = model.generate(inputs["input_features"], max_new_tokens=4)
    with pellucid.watch(model, keep=True) as record:
        timed = model.generate(inputs["input_features"], max_new_tokens=4, return_token_timestamps=True)
    assert set(models.settings(model)) == {"sdpa"}
    assert torch.equal(timed["sequences"], generated)
    assert record.layers == plain.layers
    for layer, expected in zip(record.values(), plain.values(), strict=True):
        assert not layer.by_hand
        assert (layer.role, layer.calls) == (expected.role, expected.calls)
        torch.testing.assert_close(layer.weights(), expected.weights(), atol=TOLERANCE, rtol=0)


def test_a_model_set_to_eager_while_it_is_watched_is_seen_with_its_sinks() -> None:
    model, inputs = models.made("gpt_oss")  # its own weights are cut after the softmax: the sink's is taken off
    before = models.settings(model)
    with pellucid.watch(model) as plain:
        model(**inputs)
    with pellucid.watch(model) as record:
        model.set_attn_implementation("eager")
        model(**inputs)
    assert models.settings(model) == before
    torch.testing.assert_close(record[1].entropy, plain[1].entropy, equal_nan=True)


def test_a_part_of_a_model_can_be_watched_alone() -> None:
    model, inputs = models.made("llama")
    plain = model(**inputs).logits
    with pellucid.watch(model.model.layers[1]) as record:
        output = model(**inputs).logits
    assert record.layers == ["self_attn"]
    assert of_tokens(output - plain, inputs).abs().max() < TOLERANCE
    assert set(models.settings(model)) == {"sdpa"}

"""The rows of the sequences that a beam search returns are those of a pass over each of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pellucid
from tests.watch import models
from tests.watch.same_record import assert_same_reading

SEARCH = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False, "pad_token_id": 0, "max_new_tokens": 7}
ENDINGS = {
    "of one length": {"min_new_tokens": 7},
    "of several lengths": {"eos_token_id": list(range(3, 25)), "length_penalty": -1.0},
}


def searched(name: str, ending: str, **options: Any) -> tuple[Any, Any, Any, Any]:
    model, inputs = models.made(name)
    inputs.pop("decoder_input_ids", None)
    with pellucid.watch(model, **options) as record:
        generated = model.generate(**inputs, **SEARCH, **ENDINGS[ending], return_dict_in_generate=True)
    return model, inputs, record, generated


def passed(model: Any, inputs: Any, generated: Any, number: int) -> Any:
    """The record of one pass over what was returned, without its last token, which no row was computed of."""
    steps = int((generated.beam_indices[number] >= 0).sum())
    length = generated.sequences.shape[1] - generated.beam_indices.shape[1] + steps - 1
    own = {key: value[number // 2, None] for key, value in inputs.items()}
    ids = generated.sequences[number, None, :length]
    if model.config.is_encoder_decoder:
        own["decoder_input_ids"] = ids
    else:
        mask = own["attention_mask"]
        own = {"input_ids": ids, "attention_mask": torch.nn.functional.pad(mask, (0, length - mask.shape[1]), value=1)}
    with torch.no_grad(), pellucid.watch(model, keep=True) as record:
        model(**own)
    return record


@pytest.mark.sampled
@pytest.mark.parametrize("ending", sorted(ENDINGS))
@pytest.mark.parametrize("name", ["llama", "mistral", "t5"])
def test_rows_are_those_of_the_sequence(name: str, ending: str) -> None:
    assert_rows_of_sequences(*searched(name, ending, keep=True))


@pytest.mark.sampled
@pytest.mark.parametrize("tokens", [1, 2, 6])
@pytest.mark.parametrize("name", ["llama", "mistral", "t5"])
def test_a_search_that_went_on_after_what_it_returns(name: str, tokens: int) -> None:
    model, inputs, record, generated = searched(name, "of one length", keep=True)
    further = generated.beam_indices.shape[1] - tokens
    cut = SimpleNamespace(
        sequences=generated.sequences[:, :-further], beam_indices=generated.beam_indices[:, :-further]
    )
    assert_rows_of_sequences(model, inputs, record, cut)


def assert_rows_of_sequences(model: Any, inputs: Any, record: Any, generated: Any) -> None:
    followed = record.of_beams(generated)
    for number in range(4):
        expected = passed(model, inputs, generated, number)
        for layer_name, whole in expected.items():
            layer = followed[layer_name]
            assert layer.batch == 4
            rows, keys = slice(whole.q_len), slice(whole.k_len)
            torch.testing.assert_close(
                layer.weights(queries=rows, keys=keys)[number, None], whole.weights(), atol=2e-6, rtol=1e-5
            )
            for reading, value in whole.readings.items():
                assert_same_reading(
                    _of(layer.readings[reading], number, keys if reading == "received" else rows), value
                )


def _of(reading: Any, number: int, cut: slice) -> Any:
    if isinstance(reading, torch.Tensor):
        return reading[number, None, :, cut]
    return type(reading)(*(_of(tensor, number, cut) for tensor in reading))


def test_rows_after_a_sequences_end_are_padding() -> None:
    _, _, record, generated = searched("llama", "of several lengths", keep=True, more=[pellucid.TopK(2)])
    ended = torch.nn.functional.pad(generated.beam_indices < 0, (models.LENGTH - 1, 0))
    assert ended.any()
    layer = record.of_beams(generated)[1]
    rows = ended[:, None].expand_as(layer.entropy)
    assert layer.entropy[rows].isnan().all()
    assert (layer.topk.keys[rows] == -1).all()
    assert (layer.weights()[rows] == 0).all()
    assert torch.equal(layer.padding.queries[:, models.LENGTH :], ended[:, models.LENGTH :])


def test_the_record_of_beams_is_summed_up_and_stored_like_any(tmp_path: Any) -> None:
    _, _, record, generated = searched("llama", "of several lengths", keep=True)
    record.notes = ["a note"]
    followed = record.of_beams(generated)
    assert followed.notes == ["a note"]
    assert torch.equal(followed.token_ids, generated.sequences[:, :-1])
    assert torch.isfinite(torch.tensor([head.entropy for head in followed.summary().rows])).all()
    stored = pellucid.open_record(followed.save(tmp_path / "run.attn"))
    torch.testing.assert_close(stored[1].weights(), followed[1].weights())
    again = pellucid.open_record(record.save(tmp_path / "beams.attn")).of_beams(generated)
    torch.testing.assert_close(again[1].weights(), followed[1].weights())


def test_without_query_and_key_what_beams_received_is_left_out() -> None:
    _, _, record, generated = searched("llama", "of one length")
    assert "received" in record[0]
    assert "received" not in record.of_beams(generated)[0]


def test_what_is_no_beam_search_or_another_is_refused() -> None:
    _, _, record, generated = searched("llama", "of one length")
    with pytest.raises(ValueError, match="generated: beam_indices are needed, got none"):
        record.of_beams(SimpleNamespace(sequences=generated.sequences))
    with pytest.raises(ValueError, match=r"generated: it has rows up to position 21, .* was another generation"):
        record.of_beams(generated, prompt=15)
    other = pellucid.Record("", {"a": pellucid.Layer("a", "causal self", 2, 1, 1, 23, 23, 5, 5, 1.0)})
    with pytest.raises(ValueError, match="the record of 2 sequences"):
        other.of_beams(generated)

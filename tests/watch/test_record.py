"""Layers and records by themselves."""

from __future__ import annotations

import pytest
import torch

import pellucid
from pellucid import Layer, Missed, Record
from tests.watch import models


@pytest.fixture(scope="module")
def record() -> Record:
    model, inputs = models.made("llama")
    with pellucid.watch(model, keep=True) as record:
        model(**inputs)
    return record


def test_a_record_is_a_mapping_in_the_order_of_the_run(record: Record) -> None:
    assert list(record) == record.layers == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    assert record[0] is record["model.layers.0.self_attn"]
    assert record[-1] is record["model.layers.1.self_attn"]
    assert "2 layers" in repr(record)
    with pytest.raises(KeyError, match=r"'model' is no layer of the record, which has model.layers.0.self_attn, "):
        record["model"]
    with pytest.raises(IndexError, match="layer 2: the record has 2"):
        record[2]


def test_a_missed_module_says_why() -> None:
    record = Record("Model")
    record.missed = [Missed("a", "because")]
    with pytest.raises(KeyError, match="'a' was not observed: because"):
        record["a"]
    assert repr(record) == "Record(Model, 0 layers, 1 missed)"


def test_a_layers_readings_are_its_attributes(record: Record) -> None:
    layer = record[0]
    assert layer.entropy is layer.readings["entropy"]
    assert "entropy" in layer
    assert "entropy" in dir(layer)
    assert "query and key kept" in repr(layer)
    with pytest.raises(AttributeError, match=r"'topk' was not read; pass its readout to watch\(readouts=\[...\]\)"):
        _ = layer.topk


def test_any_part_of_the_weights_is_that_of_the_whole(record: Record) -> None:
    layer = record[1]
    whole = layer.weights()
    assert whole.shape == (2, 4, 13, 13)
    assert torch.equal(layer.weights(queries=5), whole[:, :, 5:6])
    part = layer.weights(slice(2, 9, 3), [4, 1], -1)  # from the lse, the whole by its own sum
    torch.testing.assert_close(part, whole[:, 3:, 2:9:3][..., [4, 1]], atol=1e-6, rtol=0)
    assert layer.weights(queries=[]).shape == (2, 4, 0, 13)
    for name in ("queries", "keys", "heads"):
        with pytest.raises(IndexError, match=f"{name}: a slice, or indices from -"):
            layer.weights(**{name: 13})


def test_rows_of_several_parts_come_in_the_order_asked_for() -> None:
    model, _ = models.swappable("t5")  # its position bias is another tensor at each step
    with pellucid.watch(model, keep=True) as record:
        model.generate(models.ids(), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    layer = next(layer for layer in record.values() if layer.role == "causal self")
    assert len(layer.parts) == 4
    assert layer.score is layer.mask is None
    assert layer.query.shape == (2, 4, 4, 8)
    whole = layer.weights()
    assert torch.equal(layer.weights(queries=[3, 0, 2]), whole[:, :, [3, 0, 2]])
    torch.testing.assert_close(whole.sum(-1), torch.ones(2, 4, 4))


def test_a_layer_without_query_and_key_has_none() -> None:
    layer = Layer("a", "self", 1, 2, 2, 3, 3, 4, 4, 0.5, readings={"lse": torch.zeros(1, 2, 3)})
    assert layer.query is layer.key is layer.sinks is layer.score is None
    with pytest.raises(ValueError, match=r"weights: a kept no query and key .* keep=\['a'\]"):
        layer.weights()

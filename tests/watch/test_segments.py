"""Attention between named ranges of tokens, against sums over whole matrices."""

import pytest
import torch

from pellucid.record.studies import segments
from pellucid.record.studies.segments import segment_mass, segment_readouts
from tests.watch.observed import observed_layer, observed_record

SPANS = {
    "prompt": slice(None, 7),
    "image": [slice(3, 9), slice(8, 11)],
    "answer": slice(11, None),
}


def definition(layer, spans_of_queries, spans_of_keys):
    weights = layer.weights().double()
    padded = layer.padding.queries if layer.padding.queries is not None else torch.zeros(layer.batch, layer.q_len)
    table = []
    for rows_of in spans_of_queries:
        row = []
        for keys_of in spans_of_keys:
            parts = []
            for b in range(layer.batch):
                rows = [q for q in range(layer.q_len)[_of(rows_of, b)] if not padded[b, q]]
                parts.append(weights[b][:, rows][:, :, _of(keys_of, b)].sum(-1))
            row.append(torch.cat(parts, -1).mean(-1))
        table.append(torch.stack(row, -1))
    return torch.stack(table, -2)


def _of(span, b):
    return span[b] if isinstance(span, list) else span


@pytest.mark.sampled
@pytest.mark.parametrize("from_readings", [True, False])
@pytest.mark.parametrize("options", [{}, {"left_padding": [0, 5]}, {"sinks": torch.tensor([1.0, 2.0, 3.0])}])
def test_mass_is_that_of_the_matrix(options, from_readings, monkeypatch):
    monkeypatch.setattr(segments, "_CHUNK", 300)
    layer = observed_layer(readouts=segment_readouts(SPANS, "causal self") if from_readings else (), **options)
    expected = definition(layer, SPANS.values(), SPANS.values())
    if from_readings:
        layer.parts = []
    found = observed_record(layer, segments=SPANS).segment_mass(0)
    assert found.queries == found.keys == ("prompt", "image", "answer")
    torch.testing.assert_close(found.mass, expected, rtol=0, atol=1e-6)


def test_cross_attention_goes_from_the_answer_to_the_source():
    spans = {"source.title": slice(0, 4), "source.body": slice(4, None), "answer": slice(2, 7)}
    layer = observed_layer("cross", "cross", q_len=7, k_len=19, readouts=segment_readouts(spans, "cross"))
    encoder = observed_layer("encoder", "self", q_len=19, readouts=segment_readouts(spans, "self"))
    record = observed_record(layer, encoder, segments=spans)
    found = segment_mass(record, "cross")
    assert (found.queries, found.keys) == (("answer",), ("source.title", "source.body"))
    torch.testing.assert_close(found.mass.sum(-1), torch.ones(3, 1).double())
    expected = definition(layer, [slice(2, 7)], [slice(0, 4), slice(4, None)])
    torch.testing.assert_close(found.mass, expected, rtol=0, atol=1e-6)
    assert segment_mass(record, "encoder").queries == ("source.title", "source.body")


def test_a_segment_without_queries_is_nan():
    spans = {"prompt": slice(0, 4), "later": slice(100, None)}
    found = segment_mass(observed_record(observed_layer(), segments=spans), 0).mass
    assert found[:, 1].isnan().all()
    assert (found[:, 0, 1] == 0).all()


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({}, r"none is given for the queries of model\.layers\.0\.attention \(causal self\)"),
        ({"a": slice(-3, None)}, "a must be a slice forward from 0"),
        ({"a": slice(0, 9, 2)}, "a must be a slice forward from 0"),
        ({"a": [slice(0, 9)]}, "a has 1 ranges for 2 sequences"),
    ],
)
def test_segments_that_cannot_be(spans, message):
    with pytest.raises(ValueError, match=message):
        segment_mass(observed_record(observed_layer(), segments=spans), 0)


def test_neither_read_nor_kept():
    with pytest.raises(ValueError, match="has neither read 'segment a' nor kept query and key"):
        segment_mass(observed_record(observed_layer(kept=False), segments={"a": slice(0, 3)}), 0)

"""Records for other tools: Parquet, HeadVis, BertViz."""

import json
from math import isnan

import pytest
import torch

from pellucid.readouts import TopK
from pellucid.record import export
from pellucid.record.layer import Layer
from tests.watch.observed import observed_layer, observed_record

TOKENS = [[f"a{i}" for i in range(23)], [f"b{i}" for i in range(23)]]
SOURCE = [[f"s{i}" for i in range(19)], [f"t{i}" for i in range(19)]]


@pytest.fixture
def record():
    layers = [observed_layer(f"layer.{n}", seed=n, readouts=[TopK(4)], left_padding=[0, 5]) for n in range(2)]
    return observed_record(*layers, tokens=TOKENS)


@pytest.fixture
def translation():
    layers = [
        observed_layer("encoder", "self", q_len=19),
        observed_layer("decoder", readouts=[TopK(2)]),
        observed_layer("cross", "cross", k_len=19, readouts=[TopK(3)]),
    ]
    return observed_record(*layers, tokens=TOKENS, source_tokens=SOURCE)


def test_parquet_holds_the_summary(record, tmp_path):
    pandas_like = pytest.importorskip("pyarrow.parquet")
    heads, _ = record.to_parquet(tmp_path / "run.parquet")
    table = pandas_like.read_table(heads).to_pydict()
    expected = record.summary().columns()
    assert list(table) == list(expected)
    for name, values in expected.items():
        for found, value in zip(table[name], values, strict=True):
            assert found == value or (isnan(found) and isnan(value)), name


@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_parquet_holds_the_top_keys(record, tmp_path, monkeypatch, at_once):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(export, "_ROWS_AT_ONCE", at_once)
    _, keys = record.to_parquet(tmp_path / "run.parquet")
    assert keys.name == "run.topk.parquet"
    rows = parquet.read_table(keys).to_pylist()
    weights = [layer.weights() for layer in record.values()]
    queries_of = [sum(min(4, q + 1) for q in range(23)), sum(min(4, q + 1) for q in range(18))]
    assert len(rows) == 2 * 3 * sum(queries_of)
    for row in rows[:: len(rows) // 50]:
        number = int(row["layer"][-1])
        exact = weights[number][row["sequence"], row["head"], row["query"]]
        assert row["weight"] == pytest.approx(float(exact[row["key"]]), rel=1e-5)
        assert row["weight"] == pytest.approx(float(exact.sort(descending=True).values[row["rank"]]), rel=1e-5)
        assert row["query_token"] == TOKENS[row["sequence"]][row["query"]]
        assert row["key_token"] == TOKENS[row["sequence"]][row["key"]]


def test_parquet_of_cross_attention_names_tokens_of_both_sides(translation, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    _, keys = translation.to_parquet(tmp_path / "run.parquet")
    row = next(row for row in parquet.read_table(keys).to_pylist() if row["layer"] == "cross" and row["sequence"] == 1)
    assert (row["query_token"][0], row["key_token"][0]) == ("b", "t")


def test_parquet_without_top_keys_is_one_file(tmp_path):
    pytest.importorskip("pyarrow")
    assert observed_record(observed_layer()).to_parquet(tmp_path / "run.parquet") == [tmp_path / "run.parquet"]


def test_parquet_without_pyarrow(record, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match="to_parquet needs pyarrow; pip install pyarrow"):
        record.to_parquet(tmp_path / "run.parquet")


def test_headvis_patterns_are_flat_and_sparse(record, tmp_path):
    folder = record.to_headvis(tmp_path / "data")
    config = json.loads((folder / "config.json").read_text())
    assert config["heads"] == [f"L{layer}H{head}" for layer in range(2) for head in range(3)]
    scatter = json.loads((folder / "scatter_data.json").read_text())
    summary = record.summary()
    assert [row["entropy"] for row in scatter] == [row.entropy for row in summary]
    assert [row["induction"] for row in scatter] == [None] * 6
    assert set(config["metrics"]) <= scatter[0].keys()
    for number, layer in enumerate(record.values()):
        weights = layer.weights()
        for head in range(3):
            content = json.loads((folder / "heads" / f"L{number}H{head}.json").read_text())
            assert content["module"] == layer.name
            for b, sequence in enumerate(content["sequences"]):
                assert sequence["tokens"] == TOKENS[b]
                flat = torch.zeros(23 * 23)
                pattern = sequence["pattern"]
                assert pattern["indices"] == sorted(pattern["indices"])
                flat[torch.tensor(pattern["indices"])] = torch.tensor(pattern["values"])
                exact = weights[b, head]
                least = exact.sort(-1, descending=True).values[:, 3:4]
                expected = torch.where(exact >= least, exact, 0.0)
                if b == 1:
                    expected[:5] = 0.0
                torch.testing.assert_close(flat.view(23, 23), expected, rtol=0, atol=2e-6)


def test_headvis_needs_top_keys(tmp_path):
    with pytest.raises(ValueError, match="no self-attention with its top keys"):
        observed_record(observed_layer()).to_headvis(tmp_path / "data")


def test_bertviz_takes_a_window(record):
    found = record.to_bertviz(slice(3, 9), sequence=1)
    assert found["tokens"] == TOKENS[1][3:9]
    assert len(found["attention"]) == 2
    for weights, layer in zip(found["attention"], record.values(), strict=True):
        torch.testing.assert_close(weights, layer.weights()[1:, :, 3:9, 3:9], rtol=0, atol=1e-6)


def test_bertviz_takes_encoder_decoders(translation):
    found = translation.to_bertviz(slice(0, 7), slice(2, 12))
    assert {name: [list(t.shape) for t in found[name]] for name in found if name.endswith("attention")} == {
        "encoder_attention": [[1, 3, 10, 10]],
        "decoder_attention": [[1, 3, 7, 7]],
        "cross_attention": [[1, 3, 7, 10]],
    }
    assert found["encoder_tokens"] == SOURCE[0][2:12]
    assert found["decoder_tokens"] == TOKENS[0][:7]


def test_bertviz_of_what_no_page_holds(record, monkeypatch):
    monkeypatch.setattr(export, "MOST_ON_A_PAGE", 1000)
    with pytest.raises(ValueError, match=r"window: 3,174 weights are more than a page holds \(1,000\)"):
        record.to_bertviz()
    assert record.to_bertviz(slice(0, 5))["tokens"] == TOKENS[0][:5]


def test_bertviz_needs_query_and_key():
    layer: Layer = observed_layer(kept=False)
    with pytest.raises(ValueError, match="no layer kept query and key"):
        observed_record(layer).to_bertviz()

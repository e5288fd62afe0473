"""A profile for other tools: Parquet, HeadVis."""

import json
from math import isnan

import pytest
import torch

from pellucid.profiles.numbers import NUMBERS
from tests.profiles import checkpoints, making


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    parquet = pytest.importorskip("pyarrow.parquet")
    files = checkpoints.whole().to_parquet(tmp_path_factory.mktemp("tables") / "all.parquet")
    assert [file.name for file in files] == [
        "all.parquet", "all.histograms.parquet", "all.where.parquet", "all.examples.parquet",
    ]  # fmt: skip
    return [parquet.read_table(file) for file in files]


def test_parquet_has_every_number_of_every_head(tables):
    profile, heads = checkpoints.whole(), tables[0].to_pydict()
    names = zip(heads["module"], heads["role"], heads["head"], strict=True)
    assert list(names) == [tuple(head) for head in profile.heads]
    for number in NUMBERS:
        found = profile.statistics(number)
        quantiles = profile.quantiles(number, [0.05, 0.5, 0.95])
        columns = {"documents": found.documents, "mean": found.mean, "spread": found.variance.sqrt()}
        columns |= {"least": found.least, "most": found.most}
        columns |= {name: quantiles[:, place] for place, name in enumerate(("p05", "p50", "p95"))}
        for name, values in columns.items():
            own = torch.tensor(heads[f"{number}_{name}"], dtype=torch.float64)
            torch.testing.assert_close(own, values.double(), equal_nan=True)
    kinds = profile.corpus_kinds(without_sink=True)
    assert heads["kind_without_sink"] == [kind.name for kind in kinds]
    assert heads["kind_without_sink_low"] == [kind.low for kind in kinds]


def test_parquet_has_the_histograms(tables):
    counted = {}
    for row in tables[1].to_pylist():
        assert row["low"] < row["high"]
        assert row["documents"] > 0
        key = (row["module"], row["head"], row["number"])
        counted[key] = counted.get(key, 0) + row["documents"]
    profile = checkpoints.whole()
    for number in NUMBERS:
        for head, documents in zip(profile.heads, profile.statistics(number).documents.tolist(), strict=True):
            assert counted.get((head.layer, head.head, number), 0) == documents


def test_parquet_has_where_the_weight_goes(tables):
    rows = tables[2].to_pylist()
    profile = checkpoints.whole()
    for place, head in enumerate(profile.heads):
        own = [row for row in rows if (row["module"], row["head"]) == (head.layer, head.head)]
        distances = [row for row in own if row["by"] == "distance"]
        assert sum(row["mass"] for row in distances) == pytest.approx(1.0, abs=1e-5)
        assert sum(row["equal"] for row in distances) == pytest.approx(1.0)
        assert all(row["low"] <= row["high"] for row in distances)
        classes = {row["name"]: row["mass"] for row in own if row["by"] == "class"}
        names = profile.on_classes().names
        assert classes["first"] == profile.on_classes().mass[place, names.index("first")]


def test_parquet_has_the_examples(tables):
    rows = tables[3].to_pylist()
    profile = checkpoints.whole()
    own = [row for row in rows if (row["module"], row["head"]) == ("layers.1", 1)]
    found = [row for row in own if row["strongest"] == "query" and row["number"] == "induction"]
    expected = profile.strongest_queries(4, "induction")
    assert [(row["rank"], row["value"], row["document"]) for row in found] == [
        (rank, one.value, one.document.number) for rank, one in enumerate(expected)
    ]
    assert found[0]["query_token"] == expected[0].query_token
    assert found[0]["key_token"] in found[0]["text"]
    keys = [row for row in own if row["strongest"] == "key"]
    assert all(row["query"] is None and isnan(row["weight"]) for row in keys)


def test_headvis_has_top_sequences_with_flat_patterns(tmp_path):
    profile = checkpoints.whole()
    folder = profile.to_headvis(tmp_path / "data")
    config = json.loads((folder / "config.json").read_text())
    scattered = json.loads((folder / "scatter_data.json").read_text())
    assert config["heads"] == [f"L{head['layer']}H{head['head']}" for head in scattered]
    assert config["metrics"] == list(NUMBERS)
    for place, name in enumerate(config["heads"]):
        content = json.loads((folder / "heads" / f"{name}.json").read_text())
        assert {key: content[key] for key in scattered[place]} == scattered[place]
        assert content["kind"] == profile.corpus_kinds()[place].name
        examples = profile.sequences(place)
        assert len(content["sequences"]) == len(examples)
        activations = [one["activation"] for one in content["sequences"]]
        assert activations == sorted(activations, reverse=True)
        for one, example in zip(content["sequences"], examples, strict=True):
            known = dict(example.document.tokens)
            assert one["tokens"] == [known[at] if at is not None else "…" for at in one["positions"]]
            pattern = dict(zip(one["pattern"]["indices"], one["pattern"]["values"], strict=True))
            for row in example.rows:
                for key, weight in zip(row.keys, row.weights, strict=True):
                    flat = one["positions"].index(row.query) * one["length"] + one["positions"].index(key)
                    assert pattern[flat] == weight


def test_headvis_is_refused_where_nothing_was_kept(tmp_path):
    with pytest.raises(ValueError, match=r"^to_headvis: the profile keeps no sequences; make it with examples$"):
        making.profile(7, 2, examples=0).to_headvis(tmp_path / "data")


def test_headvis_has_self_attention_alone_with_the_text_that_it_reads(tmp_path):
    profile = checkpoints.translation()
    folder = profile.to_headvis(tmp_path / "data")
    heads = json.loads((folder / "config.json").read_text())["heads"]
    assert len(heads) == sum(head.role != "cross" for head in profile.heads)
    for name in heads:
        content = json.loads((folder / "heads" / f"{name}.json").read_text())
        letter = "s" if content["role"] == "self" else "t"
        assert all(token[0] == letter for one in content["sequences"] for token in one["tokens"])
    with pytest.raises(ValueError, match=r"^to_headvis: the profile has no head of self-attention$"):
        checkpoints.empty().to_headvis(tmp_path / "none")


def test_a_profile_of_nothing_is_exported_as_nothing(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for file in checkpoints.empty().to_parquet(tmp_path / "none.parquet"):
        assert parquet.read_table(file).num_rows == 0

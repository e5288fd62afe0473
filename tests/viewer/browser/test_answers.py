"""What the page is told of records, whole, damaged or being written, and what is refused in one sentence."""

import json
import os

import pytest
import torch

from pellucid import Missed, open_record
from pellucid.readouts import TopK
from pellucid.record.disk.manifest import RecordError
from pellucid.record.disk.writer import RecordWriter
from pellucid.viewer.browser.answers import TOP, Answers
from pellucid.viewer.special import places
from tests.viewer.browser.asking import assert_close, dense, in_parts, json_of, value_of
from tests.watch.observed import observed_layer, observed_record

ODD = ["<script>alert(1)</script>", "\ud83d", "\u202eright to left", "\n", "\0", "🙂", "x" * 10_000, "</s>", "&amp;"]


@pytest.fixture
def ask():
    made = []

    def of(*records, lesson=None):
        made.append(Answers({f"r{number}": record for number, record in enumerate(records)}, lesson))
        return made[-1]

    yield of
    for answers in made:
        answers.close()


def info_of(answers, number=0):
    return json_of(answers.get("api/info", {}))["records"][number]


def test_a_record_and_its_layers(ask, tmp_path):
    layers = [observed_layer("a", q_len=5), in_parts(observed_layer("b", q_len=6)), observed_layer("c", kept=False)]
    record = observed_record(*layers, tokens=[list("abcde")] * 2)
    record.notes, record.missed = ["a note"], [Missed("d", "because")]
    record.segments = {"prompt": slice(None, 3), "each": [slice(0, 1), slice(1, None)]}
    path = record.save(tmp_path / "run.attn")
    found = info_of(ask(open_record(path)))
    assert (found["id"], found["title"], found["path"]) == ("r0", "run.attn", str(path))
    assert found["python"] == f"pellucid.open_record({str(path)!r})"
    assert (found["complete"], found["following"], found["batch"]) == (True, False, 2)
    assert (found["notes"], found["missed"]) == (["a note"], [{"name": "d", "reason": "because"}])
    assert found["segments"] == {"prompt": [[0, 3]], "each": [[0, 1], [1, None]]}
    assert [layer["name"] for layer in found["layers"]] == ["a", "b", "c"]
    assert [layer["calls"] for layer in found["layers"]] == [[0], [0, 3, 4, 5], [0]]
    assert [(layer["exact"], layer["map"], layer["top"]) for layer in found["layers"]] == [(True,) * 3] * 2 + [
        (False,) * 3
    ]
    strips = {strip["name"]: strip["axis"] for strip in found["layers"][0]["strips"]}
    assert (strips["entropy"], strips["received"]) == ("queries", "keys")
    memory = info_of(ask(record))
    assert (memory["path"], memory["python"], memory["title"]) == (None, "record", "a model made by hand")
    assert memory["opens"].startswith("# record: what .view() was called on")
    names = {}
    exec(found["opens"], names)
    assert names["record"].layers == ["a", "b", "c"]


def test_titles_of_several_records_differ(ask, tmp_path):
    layer = observed_layer(q_len=3)
    paths = [tmp_path / "a" / "run.attn", tmp_path / "b" / "run.attn", tmp_path / "other.attn"]
    stored = [open_record(observed_record(layer).save(path)) for path in paths]
    memory = [observed_record(layer), observed_record(layer)]
    answers = ask(*stored, *memory, stored[0])
    titles = [record["title"] for record in json_of(answers.get("api/info", {}))["records"]]
    assert titles[1:3] == ["b/run.attn", "other.attn"]
    assert len(set(titles)) == 6
    assert all("a model made by hand" in title for title in titles[3:5])


def test_a_lesson_is_handed_on(ask):
    lesson = {"name": "sink", "title": "", "warning": "", "steps": []}
    assert json_of(ask(observed_record(observed_layer()), lesson=lesson).get("api/info", {}))["lesson"] == lesson


def test_tokens_as_they_are(ask):
    layer = observed_layer("cross", "cross", q_len=len(ODD), k_len=2, batch=1)
    answer = ask(observed_record(layer, tokens=[ODD], source_tokens=[["<s>", "a"]])).get("api/tokens", {})
    assert answer.media_type == "application/json"
    assert b"<" not in answer.body
    assert json_of(answer) == {"own": ODD, "source": ["<s>", "a"], "own_special": [7], "source_special": [0]}


def test_signs_to_the_model():
    signs = [
        "[CLS]",
        "[SEP]",
        "<s>",
        "</s>",
        "<pad>",
        "<|endoftext|>",
        "<|im_start|>",
        "<｜begin▁of▁sentence｜>",
        "<eos>",
    ]
    signs += ["<extra_id_0>", "<start_of_turn>", "<unused12>", "[unused3]", "[/INST]"]
    texts = ["CLS", "[1]", "[CLS] a", "<b>", "</div>", "<|a b|>", "<||>", "[sep", "<", "[", "", " ", "[42]", "<3", "s"]
    assert places([*signs, *texts]) == list(range(len(signs)))


def test_heads_in_numbers(ask):
    record = observed_record(observed_layer("a"), observed_layer("b", "cross", q_len=3, k_len=4))
    found = json_of(ask(record).get("api/numbers", {}))
    rows = record.summary().rows
    assert list(zip(found["layer"], found["head"], strict=True)) == [(i, head) for i in range(2) for head in range(3)]
    assert found["kind"] == [row.kind for row in rows]
    assert found["numbers"]["entropy"] == [pytest.approx(row.entropy) for row in rows]
    assert found["numbers"]["distance"][3:] == [None] * 3  # of cross-attention it says nothing
    assert {f"{name}_without_sink" for name in found["paired"]} <= set(found["numbers"])
    assert set(found["titles"]) == {name.removesuffix("_without_sink") for name in found["numbers"]}


def test_what_runs_along_an_axis(ask):
    layer = observed_layer(left_padding=[0, 4])
    answers = ask(observed_record(layer))
    for over, join in (("mean", torch.mean), ("max", torch.amax)):
        query = {"layer": "0", "sequence": "1", "heads": "0,2", "over": over, "name": "entropy"}
        found = value_of(answers.get("api/strip", query)).log()
        assert_close(found, join(layer.entropy[1, [0, 2]].double(), 0))


@pytest.mark.parametrize("read", [True, False])
def test_the_strongest_keys(ask, read):
    layer = observed_layer(left_padding=[0, 4], readouts=[TopK(3)] if read else [])
    whole, count = dense(layer, 1, [2], "mean"), 3 if read else TOP
    answer = ask(observed_record(layer)).get("api/top", {"layer": "0", "heads": "2", "sequence": "1"})
    assert answer.headers["X-Shape"] == f"23,{count}"
    keys = torch.frombuffer(bytearray(answer.body[: 92 * count]), dtype=torch.int32).view(23, count).long()
    logs = torch.frombuffer(bytearray(answer.body[92 * count :]), dtype=torch.float32).view(23, count)
    assert (keys[:4] == -1).all()
    assert logs[:4].isnan().all()
    assert_close(logs[4:].exp().double(), whole[4:].topk(count).values)
    reached = keys[4:] >= 0
    assert_close(whole[4:].gather(1, keys[4:].clamp(min=0))[reached], logs[4:].exp().double()[reached])


def test_an_alignment(ask):
    layer = observed_layer("cross", "cross", q_len=5, k_len=9, batch=1)
    record = observed_record(layer, tokens=[list("abcde")], source_tokens=[list("123456789")])
    answers = ask(record)
    found = json_of(answers.get("api/align", {"layer": "0", "heads": "0,1"}))
    assert found["starts"] == record.align([(0, 0), (0, 1)]).starts.tolist()
    assert set(found) == {"rows", "keys", "starts", "stops"}
    refused = ask(observed_record(observed_layer())).get("api/align", {"layer": "0"})
    assert refused.status == 404
    assert json_of(refused)["error"].startswith("align: ")


LAYER = {"layer": "0"}


@pytest.mark.parametrize(
    ("path", "query", "status", "words"),
    [
        ("api/nothing", {}, 404, "there is no such address"),
        ("", {}, 404, "there is no such address"),
        ("api/tokens", {"record": "<b>"}, 404, "record: there is no '<b>'; there are r0"),
        ("api/tokens", {"sequence": "-1"}, 400, "sequence: must be a whole number"),
        ("api/tile", {}, 400, "layer: must be a whole number from 0 to 0, got None"),
        ("api/tile", {"layer": "1"}, 400, "layer: must be a whole number from 0 to 0, got '1'"),
        ("api/tile", LAYER | {"heads": "3"}, 400, "heads: must be all, or numbers from 0 to 2"),
        ("api/tile", LAYER | {"heads": ""}, 400, "heads: must be all"),
        ("api/tile", LAYER | {"heads": "0,1,2,0"}, 400, "heads: must be all"),
        ("api/tile", LAYER | {"heads": "٣"}, 400, "heads: must be all"),
        ("api/tile", LAYER | {"over": "sum"}, 400, "over: must be one of mean, max, got 'sum'"),
        ("api/tile", LAYER | {"pool": "min"}, 400, "pool: must be one of mean, max"),
        ("api/tile", LAYER | {"dtype": "f64"}, 400, "dtype: must be one of f16, f32"),
        ("api/tile", LAYER | {"zq": "28"}, 400, "zq: must be a whole number from 0 to 27"),
        ("api/tile", LAYER | {"zk": "1e1"}, 400, "zk: must be a whole number"),
        ("api/tile", LAYER | {"i": "1"}, 404, "i: there is no tile 1 of 256 tokens in 23"),
        ("api/tile", LAYER | {"j": "99999999999999999999"}, 400, "j: must be a whole number"),
        ("api/tile", LAYER | {"sequence": "2"}, 400, "sequence: must be a whole number from 0 to 1"),
        ("api/window", LAYER | {"queries": "0:1000000000"}, 400, "queries: must be a range a:b within 0:23"),
        ("api/window", LAYER | {"keys": "5:5"}, 400, "keys: must be a range a:b within 0:23, got '5:5'"),
        ("api/window", LAYER | {"keys": "-5:5"}, 400, "keys: must be a range"),
        ("api/window", LAYER | {"keys": "5"}, 400, "keys: must be a range"),
        ("api/row", LAYER, 400, "query: must be a whole number from 0 to 22, got None"),
        ("api/row", LAYER | {"query": "23"}, 400, "query: must be a whole number from 0 to 22"),
        ("api/column", LAYER | {"key": "x" * 5000}, 400, "key: must be a whole number"),
        ("api/strip", LAYER | {"name": "repeats"}, 404, "name: the layer has lse, entropy, received"),
        ("api/strip", LAYER, 404, "name: the layer has"),
        ("api/top", LAYER, 400, "heads: one head's strongest keys are told at a time, got 3"),
        ("api/thumbs", LAYER | {"most": "0"}, 400, "most: must be a whole number from 1 to 256"),
        ("api/picture", {"image": "0"}, 404, "image: the record has none"),
    ],
)
def test_what_is_refused(ask, path, query, status, words):
    answer = ask(observed_record(observed_layer())).get(path, query)
    error = json_of(answer)["error"]
    assert answer.status == status
    assert words in error
    assert len(error) < 400
    assert "\n" not in error


def test_too_much_at_once(ask, monkeypatch):
    monkeypatch.setattr("pellucid.viewer.browser.answers.MOST", 100)
    monkeypatch.setattr("pellucid.viewer.browser.tiles.MOST", 100)
    monkeypatch.setattr("pellucid.viewer.browser.tiles.AT_ONCE", 0)
    monkeypatch.setattr("pellucid.viewer.browser.tiles.SMALL", 0)
    answers = ask(observed_record(observed_layer()))
    assert "queries, keys: 529 weights are asked for at once" in json_of(answers.get("api/window", LAYER))["error"]
    assert "1587 weights fall on the tile, and 100 are the most" in json_of(answers.get("api/tile", LAYER))["error"]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), 507, "there is not enough memory for this"),
        (RuntimeError("[enforce fail] not enough memory: you tried"), 507, "there is not enough memory for this"),
        (RecordError("run.attn: is damaged"), 500, "run.attn: is damaged"),
        (OSError(5, "Input/output error"), 507, "this cannot be answered: Input/output error"),
        (ZeroDivisionError("a\nb"), 500, "this cannot be answered: ZeroDivisionError: a␊b"),
    ],
)
def test_what_goes_wrong_is_one_sentence(ask, monkeypatch, error, status, words):
    def fails(*_, **__):
        raise error

    answers = ask(observed_record(observed_layer()))
    monkeypatch.setattr("pellucid.viewer.browser.pyramid.shown.exact", fails)
    answer = answers.get("api/window", LAYER)
    assert (answer.status, json_of(answer)["error"].startswith(words)) == (status, True)


# Records that are not whole.


def test_a_layer_that_is_damaged_after_the_record_was_opened(ask, tmp_path):
    record = open_record(observed_record(observed_layer("a"), observed_layer("b")).save(tmp_path / "run.attn"))
    answers = ask(record)
    (record.path / "layer-0001.safetensors").write_bytes(b"nothing")
    found = info_of(answers)
    assert [layer["name"] for layer in found["layers"]] == ["a"]
    assert found["missed"][0]["name"] == "b"
    assert "damaged" in found["missed"][0]["reason"]
    assert answers.get("api/tile", {"layer": "0"}).status == 200
    assert answers.get("api/tile", {"layer": "1"}).status == 400


def test_a_layer_that_was_told_of_keeps_its_number(ask, tmp_path):
    """Who asks for layer 0 is not answered with what was layer 1 before another was told that 0 is damaged."""
    record = open_record(observed_record(observed_layer("a"), observed_layer("b")).save(tmp_path / "run.attn"))
    answers = ask(record)
    assert [layer["exact"] for layer in info_of(answers)["layers"]] == [True, True]
    before = answers.get("api/row", {"layer": "1", "query": "3"})
    (record.path / "layer-0000.safetensors").write_bytes(b"nothing")
    for _ in range(2):
        found = info_of(answers)
        assert [(layer["name"], layer["exact"]) for layer in found["layers"]] == [("a", False), ("b", True)]
        assert [missed["name"] for missed in found["missed"]] == ["a"]
        assert answers.get("api/numbers", {}).status == 200
    assert answers.get("api/row", {"layer": "0", "query": "3"}).status == 404
    assert answers.get("api/row", {"layer": "1", "query": "3"}).body == before.body


@pytest.mark.parametrize("change", ["cut", "other numbers"])
def test_a_layer_that_is_written_over_while_it_is_shown(ask, tmp_path, change):
    """What is mapped into memory is not looked at where it was cut, which would end the server."""
    record = open_record(observed_record(observed_layer("a"), observed_layer("b")).save(tmp_path / "run.attn"))
    answers, query = ask(record), {"layer": "1", "query": "3"}
    before = answers.get("api/row", query)
    file = record.path / "layer-0001.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:100] if change == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    answer = answers.get("api/row", query)
    assert (answer.status, "is damaged" in json_of(answer)["error"]) == (500, True)
    file.write_bytes(content)
    assert answers.get("api/row", query).body == before.body


def test_a_record_that_takes_another_s_place_is_told(ask, tmp_path):
    """Whoever knows the one before is not answered with the numbers of this one."""
    path, query = tmp_path / "run.attn", {"layer": "0", "query": "3"}
    answers = ask(open_record(observed_record(observed_layer("a", q_len=7)).save(path)))
    first = info_of(answers)
    known = query | {"edition": first["edition"]}
    before = answers.get("api/row", known)
    os.utime(path / "manifest.json")
    assert answers.get("api/row", known).body == before.body
    observed_record(observed_layer("b", q_len=7), observed_layer("c")).save(path, overwrite=True)
    answer = answers.get("api/row", known)
    assert (answer.status, json_of(answer)["error"]) == (
        409,
        "edition: the record has changed since then; ask for api/info again",
    )
    second = info_of(answers)
    assert [layer["name"] for layer in second["layers"]] == ["b", "c"]
    assert answers.get("api/row", query | {"edition": second["edition"]}).status == 200
    assert answers.get("api/row", query).status == 200


def test_a_layer_that_is_put_into_a_record_is_told(ask):
    record = observed_record(observed_layer("a"))
    answers = ask(record)
    known = {"layer": "0", "query": "3", "edition": info_of(answers)["edition"]}
    assert answers.get("api/row", known).status == 200
    record.add(observed_layer("a", seed=7))
    assert answers.get("api/row", known).status == 409
    assert answers.get("api/row", known | {"edition": info_of(answers)["edition"]}).status == 200


def test_a_record_that_is_being_written_is_followed(ask, tmp_path):
    path, layers = tmp_path / "run.attn", [observed_layer(name) for name in "abc"]
    writer = RecordWriter(path, observed_record(tokens=[["x"]]))
    writer.add(layers[0])
    answers = ask(open_record(path))
    first = info_of(answers)
    assert (first["complete"], first["following"], len(first["layers"])) == (False, True, 1)
    before = answers.get("api/tile", {"layer": "0", "dtype": "f32"}).body
    writer.add(layers[1])
    assert [layer["name"] for layer in info_of(answers)["layers"]] == ["a", "b"]
    assert answers.get("api/tile", {"layer": "1"}).status == 200
    assert answers.get("api/tile", {"layer": "0", "dtype": "f32"}).body == before
    writer.add(layers[2])
    writer.finish(observed_record(*layers, tokens=[["x"]]))
    last = info_of(answers)
    assert (last["complete"], last["following"], len(last["layers"])) == (True, False, 3)


def test_a_record_that_was_interrupted_is_not_followed(ask, tmp_path):
    record = observed_record(tokens=[["x"]])
    record.complete = False
    writer = RecordWriter(tmp_path / "run.attn", record)
    writer.add(observed_layer("a"))
    writer.close(record)
    answers = ask(open_record(tmp_path / "run.attn"))
    found = info_of(answers)
    assert (found["complete"], found["following"], len(found["layers"])) == (False, False, 1)
    with RecordWriter(tmp_path / "run.attn", record, resume=True):  # who asks does not keep who writes away
        assert info_of(answers)["following"]


def test_a_record_that_holds_no_layer_yet(ask, tmp_path):
    RecordWriter(tmp_path / "run.attn", observed_record(tokens=[["x"]]))
    answers = ask(open_record(tmp_path / "run.attn"))
    assert info_of(answers)["layers"] == []
    assert json.loads(answers.get("api/numbers", {}).body)["layer"] == []
    answer = answers.get("api/tile", {"layer": "0"})
    assert (answer.status, json_of(answer)["error"]) == (404, "layer: the record holds none yet")

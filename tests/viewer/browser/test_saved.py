"""A saved page says what the server says, or that it was left out."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pellucid
from pellucid.record.observed import record_of
from pellucid.viewer.browser import saved
from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.viewing.viewer import Viewer

NODE = shutil.which("node")
NEEDS_NODE = pytest.mark.skipif(NODE is None, reason="node is not installed, and runs the page's own script")
Question = tuple[str, dict[str, Any]]


def layer(name: str, q_len: int, k_len: int, causal: bool = False, batch: int = 2) -> pellucid.Layer:
    q, k = torch.randn(batch, 3, q_len, 4), torch.randn(batch, 3, k_len, 4)
    readouts = [pellucid.Entropy(), pellucid.Received(), pellucid.TopK(2)]
    _, seen = pellucid.observe(q, k, k, is_causal=causal, readouts=readouts)
    return replace(record_of(seen)[0], name=name)


@pytest.fixture
def small() -> Answers:
    layers = [layer("own", 7, 7, causal=True), layer("cross", 7, 11)]
    tokens = [["</script>", "<!--", "\ud800", "é", "5", "6", "7"]] * 2
    record = pellucid.Record("small", {one.name: one for one in layers}, tokens=tokens)
    record.tokens[0][0] = "</script><script>alert(1)</script>"
    return Answers({"r0": record})


@pytest.fixture
def large() -> Answers:
    own = layer("own", 700, 700, causal=True, batch=1)
    return Answers({"r0": pellucid.Record("large", {"own": own})})


def ask(page: Path, questions: list[Question], tmp_path: Path) -> list[dict[str, Any]]:
    """What a saved page's own script answers."""
    asked = tmp_path / "questions.json"
    asked.write_text(json.dumps([{"path": path, "query": query} for path, query in questions]), encoding="utf-8")
    command = [str(NODE), str(Path(__file__).parent / "embedded.mjs"), str(page), str(asked)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def numbers(body: bytes, dtype: str) -> np.ndarray:
    return np.frombuffer(body, {"f16": "<f2", "f32": "<f4", "i32": "<i4", "u8": "u1"}[dtype]).astype(np.float64)


def agrees(own: dict[str, Any], answers: Answers, path: str, query: dict[str, Any], tolerance: float) -> None:
    wanted = answers.get(path, {name: str(value) for name, value in query.items()})
    assert (own["status"], wanted.status) == (200, 200), (path, query, own)
    assert own["headers"]["x-shape"] == wanted.headers.get("X-Shape", ""), (path, query)
    body = base64.b64decode(own["body"])
    if "X-Dtype" not in wanted.headers:
        assert json.loads(body) == json.loads(wanted.body)
        return
    if "X-Exact" in wanted.headers:
        assert own["headers"]["x-exact"] == wanted.headers["X-Exact"], (path, query)
    if path == "api/top":
        assert body == wanted.body
        return
    mine, theirs = numbers(body, own["headers"]["x-dtype"]), numbers(wanted.body, wanted.headers["X-Dtype"])
    np.testing.assert_allclose(np.exp(mine), np.exp(theirs), rtol=tolerance, atol=1e-7, err_msg=str((path, query)))


def questions_of(layer: pellucid.Layer, number: int, draw: random.Random) -> list[Question]:
    """Whatever may be asked of a layer, at random places."""
    found: list[Question] = []
    for heads in ("0", "2", "0,2", "all"):
        place = {"record": "r0", "layer": str(number), "heads": heads, "sequence": str(draw.randrange(layer.batch))}
        place |= {"over": draw.choice(["mean", "max"]), "pool": draw.choice(["mean", "max"])}
        q0, k0 = draw.randrange(layer.q_len), draw.randrange(layer.k_len)
        q1, k1 = draw.randint(q0 + 1, layer.q_len), draw.randint(k0 + 1, layer.k_len)
        tile = {"zq": str(draw.randrange(4)), "zk": str(draw.randrange(4)), "i": "0", "j": "0", "dtype": "f32"}
        found += [
            ("api/window", place | {"queries": f"{q0}:{q1}", "keys": f"{k0}:{k1}"}),
            ("api/row", place | {"query": str(q0)}),
            ("api/column", place | {"key": str(k0)}),
            ("api/tile", place | tile),
            ("api/tile", place | tile | {"zq": "0", "zk": "0"}),
            ("api/overview", place | {"pool": place["over"]}),
            *(("api/strip", place | {"name": name}) for name in ("entropy", "received")),
        ]
    return found


@NEEDS_NODE
def test_a_small_record_is_inside_whole(small: Answers, tmp_path: Path) -> None:
    page = saved.save(small, tmp_path / "page.html")
    draw = random.Random(7)
    record = small.records["r0"]
    questions = [q for number in range(2) for q in questions_of(record[number], number, draw)]
    questions += [("api/tokens", {"record": "r0", "sequence": "1"}), ("api/numbers", {"record": "r0"})]
    for (path, query), own in zip(questions, ask(page, questions, tmp_path), strict=True):
        agrees(own, small, path, query, tolerance=2e-6)


@NEEDS_NODE
@pytest.mark.parametrize("name", [0, 1])
def test_windows_rows_and_columns_are_the_records_weights(small: Answers, tmp_path: Path, name: int) -> None:
    page = saved.save(small, tmp_path / "page.html")
    draw = random.Random(11)
    found, expected = [], []
    layer = small.records["r0"][name]
    for _ in range(40):
        sequence, head = draw.randrange(layer.batch), draw.randrange(layer.heads)
        rows, keys = sorted(draw.sample(range(layer.q_len + 1), 2)), sorted(draw.sample(range(layer.k_len + 1), 2))
        place = {"record": "r0", "layer": str(name), "heads": str(head), "sequence": str(sequence)}
        whole = layer.weights(heads=head)[sequence, 0]
        found += [
            ("api/window", place | {"queries": "{}:{}".format(*rows), "keys": "{}:{}".format(*keys)}),
            ("api/row", place | {"query": str(rows[0])}),
            ("api/column", place | {"key": str(keys[0])}),
        ]
        expected += [whole[slice(*rows), slice(*keys)], whole[rows[0]], whole[:, keys[0]]]
    for own, weights, question in zip(ask(page, found, tmp_path), expected, found, strict=True):
        mine = np.exp(numbers(base64.b64decode(own["body"]), "f32"))
        np.testing.assert_allclose(mine, weights.flatten().numpy(), rtol=2e-6, atol=1e-9, err_msg=str(question))


@NEEDS_NODE
def test_info_says_what_is_inside(large: Answers, tmp_path: Path) -> None:
    page = saved.save(large, tmp_path / "page.html", max_bytes=1_500_000)
    assert page.stat().st_size < 1_500_000
    (own,) = ask(page, [("api/info", {})], tmp_path)
    info = json.loads(base64.b64decode(own["body"]))
    assert info["left_out"] == ["Exact weights of 1 of 1 layers: own."]
    assert [(one["exact"], one["map"], one["top"]) for one in info["records"][0]["layers"]] == [(False, True, True)]


@NEEDS_NODE
def test_what_is_left_out_is_refused_and_the_rest_is_the_server_s(large: Answers, tmp_path: Path) -> None:
    window = ("own", 1, slice(300, 400), slice(0, 256))
    page = saved.save(large, tmp_path / "page.html", max_bytes=2_000_000, windows=[window])
    place = {"record": "r0", "layer": "0", "heads": "1", "sequence": "0"}
    held: list[Question] = [
        ("api/window", place | {"queries": "310:390", "keys": "5:200"}),
        ("api/tile", place | {"zq": "0", "zk": "0", "i": "1", "j": "0", "dtype": "f32"}),
        ("api/top", place),
        ("api/strip", place | {"name": "entropy"}),
    ]
    missing: list[Question] = [
        ("api/window", place | {"queries": "310:390", "keys": "5:300"}),
        ("api/row", place | {"query": "310"}),
        ("api/window", place | {"heads": "0", "queries": "310:390", "keys": "5:200"}),
        ("api/nothing", place),
    ]
    found = ask(page, [*held, *missing], tmp_path)
    for (path, query), own in zip(held, found, strict=False):
        agrees(own, large, path, query, tolerance=0)
    for own in found[len(held) :]:
        assert own["status"] == 404
        assert json.loads(base64.b64decode(own["body"]))["error"]


@NEEDS_NODE
def test_pooled_maps_are_the_server_s(large: Answers, tmp_path: Path) -> None:
    page = saved.save(large, tmp_path / "page.html", max_bytes=4_500_000)
    place = {"record": "r0", "layer": "0", "heads": "all", "sequence": "0", "dtype": "f32"}
    levels = {"zq": "2", "zk": "2", "i": "0", "j": "0"}
    questions = [("api/tile", place | levels | {"over": way, "pool": way}) for way in ("mean", "max")]
    found = ask(page, [*questions, ("api/tile", place | levels | {"over": "max"})], tmp_path)
    for (path, query), own in zip(questions, found, strict=False):
        agrees(own, large, path, query, tolerance=2e-6)
    assert found[-1]["status"] == 404


def test_nothing_in_a_token_ends_the_script(small: Answers, tmp_path: Path) -> None:
    text = saved.save(small, tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert "<!--" not in text


def test_its_policy_lets_it_ask_nobody(small: Answers, tmp_path: Path) -> None:
    text = saved.save(small, tmp_path / "page.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src &#x27;none&#x27;; script-src &#x27;sha256-")
    assert "http" not in policy[1]
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_where_the_record_lies_is_not_told(tmp_path: Path) -> None:
    record = pellucid.Record("small", {"own": layer("own", 5, 5)})
    folder = tmp_path / "secret" / "run.attn"
    folder.parent.mkdir()
    record.save(folder)
    page = saved.save(Answers({"r0": pellucid.open_record(folder)}), tmp_path / "page.html")
    if NODE is not None:
        (own,) = ask(page, [("api/info", {})], tmp_path)
        (found,) = json.loads(base64.b64decode(own["body"]))["records"]
        assert found["path"] is None
        assert found["python"] == "pellucid.open_record('run.attn')"
        assert (
            found["opens"]
            == "# run.attn: the record's folder\nimport pellucid\nrecord = pellucid.open_record('run.attn')"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 1}, "max_bytes: tokens and numbers of small alone do not fit"),
        ({"windows": [("none", 0, None, None)]}, "windows: no layer and head of small"),
        ({"windows": [(0, 3, None, None)]}, "windows: no layer and head of small"),
        ({"windows": [(0, 0, slice(0, 9, 2), None)]}, "a slice of neighbours within 7"),
        ({"windows": [(0, 0, slice(5, 5), None)]}, "a slice of neighbours within 7"),
    ],
)
def test_what_cannot_be_inside_is_refused(
    small: Answers, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        saved.save(small, tmp_path / "page.html", **options)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays_where_writing_fails(small: Answers, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is there already"):
        saved.save(small, page, overwrite=False)
    with pytest.raises(ValueError, match="max_bytes"):
        saved.save(small, page, max_bytes=10)
    assert page.read_text(encoding="utf-8") == "mine"
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        saved.save(small, tmp_path / "none" / "page.html")


def test_a_viewer_saves(small: Answers, tmp_path: Path) -> None:
    page = Viewer(small.records, state={"view": "map"}).save(tmp_path / "page.html")
    assert '"state":{"view":"map"}' in page.read_text(encoding="utf-8")

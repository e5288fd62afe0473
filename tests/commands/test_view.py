"""`pellucid view`: what is opened, what is served until Ctrl-C, and what cannot be."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from pellucid import open_record
from pellucid.commands.console import _quoted
from pellucid.record.disk import manifest as manifests
from pellucid.record.disk.writer import RecordWriter
from pellucid.viewer import browser
from pellucid.viewer.browser.serve import listening
from tests.watch.observed import observed_layer, observed_record


@pytest.fixture
def path(tmp_path):
    return observed_record(observed_layer("a"), observed_layer("b")).save(tmp_path / "run.attn")


@pytest.fixture
def shown(monkeypatch):
    """What would be shown: records and options."""
    found = []

    def show(records, **options):
        found.append((records, options))
        return 0

    monkeypatch.setattr(browser, "show", show)
    return found


@pytest.mark.parametrize(
    ("words", "text"), [((), "3 mars 1997"), (("4 avril",), "4 avril"), (("4", "avril"), "4 avril")]
)
def test_a_date(pellucid, reader, shown, words, text):
    assert pellucid("view", *words) == (0, "", "")
    ((records, options),) = shown
    opens = options.pop("opens")
    assert options == {"lesson": None, "port": 0, "open_browser": True, "save": None}
    (record,) = records.values()
    assert {layer.role for layer in record.values()} == {"self", "causal self", "cross"}
    assert "".join(record.source_tokens[0]) == text
    assert all(layer.has_weights and "topk" in layer for layer in record.values())
    assert record.model.startswith("the embedded date reader, which answers ")
    expected = reader.read(text).attention["cross"][0].weights()
    cross = next(layer for layer in record.values() if layer.role == "cross")
    assert cross.weights()[0, 0].allclose(expected[0, 0], atol=1e-6)
    made = run_of(opens["r0"])
    assert made.layers == record.layers
    assert made[cross.name].weights().equal(cross.weights())


def run_of(lines):
    """The record that lines of Python make."""
    names = {}
    exec(lines, names)
    return names["record"]


def test_records_side_by_side(pellucid, shown, path, tmp_path):
    other = observed_record(observed_layer("c")).save(tmp_path / "other.attn")
    assert pellucid("view", path, other, "--port", 8123, "--no-browser") == (0, "", "")
    ((records, options),) = shown
    assert [record.layers for record in records.values()] == [["a", "b"], ["c"]]
    assert (options["port"], options["open_browser"]) == (8123, False)


def test_damaged_layers_are_left_out_and_named(pellucid, shown, path):
    (path / "layer-0001.safetensors").write_bytes(b"nothing")
    status, out, err = pellucid("view", path)
    assert (status, out) == (0, "")
    assert err.startswith("pellucid: warning: b is left out: layer-0001.safetensors is damaged")
    ((records, _),) = shown
    assert records["r0"].layers == ["a"]


def broken(path):
    (path / manifests.NAME).write_text("{")


def newer(path):
    content = json.loads((path / manifests.NAME).read_text())
    (path / manifests.NAME).write_text(json.dumps(content | {"version": 2}))


def gone(path):
    (path / manifests.NAME).unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (broken, "its manifest.json is damaged"),
        (newer, "was written in version 2 of the format, and pellucid"),
        (gone, "is no record: it holds no manifest.json"),
    ],
)
def test_what_is_no_record_that_can_be_opened(pellucid, shown, path, change, words):
    change(path)
    status, out, err = pellucid("view", path)
    assert (status, out, shown) == (1, "", [])
    assert err.startswith(f"pellucid: {path}: {words}")
    assert err.count("\n") == 1


def test_a_record_that_is_not_there(pellucid, shown, tmp_path):
    assert pellucid("view", tmp_path / "no.attn") == (1, "", f"pellucid: {tmp_path}/no.attn: there is no such record\n")


def test_a_record_and_something_else(pellucid, shown, path):
    status, _, err = pellucid("view", path, "3 mars")
    assert (status, err) == (1, "pellucid: RECORD: 3 mars is no record; give records alone, or a date\n")


def test_a_record_that_is_being_written(pellucid, shown, tmp_path):
    writer = RecordWriter(tmp_path / "run.attn", observed_record(tokens=[["x"]]))
    assert pellucid("view", tmp_path / "run.attn") == (0, "", "")
    ((records, _),) = shown
    assert records["r0"].is_being_written
    writer.close(observed_record())


def test_a_port_in_use(pellucid, path):
    with listening(0) as server:
        number = server.getsockname()[1]
        status, out, err = pellucid("view", path, "--port", number, "--no-browser")
    helps = "name another, or none for any that is free"
    assert (status, out, err) == (1, "", f"pellucid: --port: port {number} is in use; {helps}\n")


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_no_port(pellucid, path, port):
    status, _, err = pellucid("view", path, "--port", port)
    assert status == 2
    assert "argument --port: must be a whole number from 1 to 65535" in err


def test_without_the_packages(pellucid, path, monkeypatch):
    monkeypatch.setattr("pellucid.viewer.viewing.surroundings.find_spec", lambda name: None)
    status, out, err = pellucid("view", path)
    assert (status, out) == (1, "")
    assert err == (
        'pellucid: the page needs starlette and uvicorn, which is not installed; pip install "pellucid[view]"\n'
    )


def test_a_saved_page(pellucid, path, tmp_path):
    page = tmp_path / "page.html"
    assert pellucid("view", path, "--save", page) == (0, "", f"pellucid: saved {page}\n")
    assert page.read_text().startswith("<!doctype html>")
    status, _, err = pellucid("view", path, "--save", tmp_path / "no" / "page.html")
    assert status == 1
    assert err.startswith("pellucid: --save: ")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_serves_until_it_is_ended(path, number, status):
    command = [sys.executable, "-m", "pellucid", "view", str(path), "--no-browser"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stderr.readline() == "pellucid: served until Ctrl-C\n"
        address = running.stdout.readline().strip()
        with urllib.request.urlopen(f"{address}api/info", timeout=60) as answer:
            (record,) = json.loads(answer.read())["records"]
        assert record["path"] == str(path)
        running.send_signal(number)
        rest, told = running.communicate(timeout=60)
    assert (running.returncode, rest) == (status, "")
    assert told == ("\npellucid: interrupted\n" if number == signal.SIGINT else "")
    assert open_record(path, verify=True).complete


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("run.attn", "run.attn"), ("3 mars 1997", '"3 mars 1997"'), ("a$b c", "'a$b c'"), ('say "x"', "'say \"x\"'"),
        ("1997年3月3日", '"1997年3月3日"'), ("", '""'),
    ],
)  # fmt: skip
def test_a_word_of_a_command_line(word, quoted):
    assert _quoted(word) == quoted

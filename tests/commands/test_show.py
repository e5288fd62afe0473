import json
import os

import pytest
import torch

from pellucid import demo
from pellucid.demo.model.reading import LONGEST_TEXT
from pellucid.viewer.heads import NEEDED
from pellucid.viewer.pictures import picture

pytestmark = pytest.mark.usefixtures("reader")


def test_a_date(pellucid, reader):
    status, out, err = pellucid("show", "3 mars 1997")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0] == "text     3 mars 1997"
    assert lines[1] == f"answer   {reader.read('3 mars 1997').answer}"
    assert lines[3] == "cross-attention, its layer 1 of 0-1, mean of 3 heads"
    assert lines[4] == "module   decoder.1.cross_attention, layer 6 of all in records and pellucid view"
    assert lines[8].split() == list("3␣mars␣1997")
    assert "weight  ·  0.00" in out
    assert lines[-7].split()[:2] == ["head", "entropy"]
    assert [line.split()[0] for line in lines[-6:-2]] == ["0", "1", "2", "mean"]
    assert lines[-2:] == ["", 'in the browser: pellucid view "3 mars 1997"']
    assert "\x1b" not in out


def test_words_need_no_quotes(pellucid):
    assert pellucid("show", "3", "mars", "1997") == pellucid("show", "3 mars 1997")


@pytest.mark.parametrize("kind", ["cross", "encoder", "decoder"])
def test_kind_layer_and_head(pellucid, reader, kind):
    _, out, _ = pellucid("show", "3 mars", "--attention", kind, "--layer", "0", "--head", "2", "--json")
    expected = reader.read("3 mars").attention[kind][0].weights(heads=2)[0, 0]
    content = json.loads(out)
    assert content["attention"] == kind
    torch.testing.assert_close(torch.tensor(content["map"]["weights"]), expected)


def test_the_mean_can_be_asked_for_by_name(pellucid):
    assert pellucid("show", "3 mars", "--head", "mean") == pellucid("show", "3 mars")


def test_json_of_a_text_is_one_object(pellucid, reader):
    status, out, err = pellucid("show", "3 mars 1997", "--json")
    content = json.loads(out)
    assert (status, err) == (0, "")
    assert "line" not in content
    reading = reader.read("3 mars 1997", readouts=NEEDED)
    assert content["answer"] == reading.answer
    entropy = [head["by_query"]["entropy"] for head in content["heads"]]
    expected = [row for observation in reading.attention["cross"] for row in observation.entropy[0].tolist()]
    assert entropy == [pytest.approx(row) for row in expected]


def test_each_line_of_a_file_is_a_date(pellucid, tmp_path):
    path = tmp_path / "dates.txt"
    path.write_bytes("\ufeff3 mars 1997\r\n\r\n  \n1997年3月3日".encode())
    status, out, err = pellucid("show", "--file", path)
    assert (status, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("text")] == [
        "text     3 mars 1997",
        "text     1997年3月3日",
    ]
    assert "\n\ntext     1997年3月3日\n" in out


def test_json_of_a_file_is_a_list_with_lines(pellucid, tmp_path):
    path = tmp_path / "dates.txt"
    path.write_text("3 mars 1997\n\n4 mars\n", encoding="utf-8")
    status, out, _ = pellucid("show", "--json", "--file", path)
    assert status == 0
    assert [(item["line"], item["text"]) for item in json.loads(out)] == [(1, "3 mars 1997"), (3, "4 mars")]


def test_json_of_a_file_with_one_line_is_a_list_too(pellucid, tmp_path):
    path = tmp_path / "dates.txt"
    path.write_text("3 mars 1997", encoding="utf-8")
    assert [item["line"] for item in json.loads(pellucid("show", "--json", "--file", path)[1])] == [1]


def test_json_of_a_file_is_printed_as_it_is_read(pellucid, tmp_path, reader, monkeypatch, capsys):
    path = tmp_path / "dates.txt"
    path.write_text("3 mars\n4 mars\n", encoding="utf-8")
    printed = []
    read = reader.read

    def watched(text, **options):
        printed.append(capsys.readouterr().out)
        return read(text, **options)

    monkeypatch.setattr(reader, "read", watched)
    _, rest, _ = pellucid("show", "--json", "--file", path)
    assert printed[0] == ""
    assert json.loads(f"{printed[1]}]")[0]["text"] == "3 mars"
    assert [item["line"] for item in json.loads("".join(printed) + rest)] == [1, 2]


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_standard_input(pellucid, standard_input, arguments):
    standard_input("1997年3月3日\n4 mars\n".encode())
    status, out, _ = pellucid("show", *arguments, "--json")
    assert status == 0
    assert [item["text"] for item in json.loads(out)] == ["1997年3月3日", "4 mars"]


def test_a_line_that_cannot_be_read_is_named_and_the_others_are_shown(pellucid, standard_input):
    standard_input(b"3 mars\n" + b"x" * 999 + b"\n4 mars\n")
    status, out, err = pellucid("show", "--json")
    assert status == 1
    assert [item["line"] for item in json.loads(out)] == [1, 3]
    assert err.startswith(f"pellucid: standard input, line 2: text: at most {LONGEST_TEXT} characters, got 999")
    assert err.count("\n") == 1


def test_no_line_that_can_be_read_is_an_empty_list(pellucid, standard_input):
    standard_input(b"x" * 999)
    assert pellucid("show", "--json")[:2] == (1, "[\n\n]\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "text: it is empty, got ''"),
        (["  "], "text: it is empty, got '  '"),
        (["x" * 10_000], f"text: at most {LONGEST_TEXT} characters, got 10000"),
        (["3 mars", "--layer", "9"], "--layer: cross-attention has 0-1, got 9"),
        (["3 mars", "--head", "-1"], "--head: cross-attention, layer 1, has 0-2, got -1"),
        (["3 mars", "--layer", "-1"], "--layer: cross-attention has 0-1, got -1"),
        (["a.attn", "b.attn"], "TEXT: one record is shown at a time, got 2 paths or words; give one alone"),
        (["3", "mars", "a.attn"], "TEXT: one record is shown at a time, got 3 paths or words; give one alone"),
        (["--file", "none/dates.txt"], "--file none/dates.txt: No such file or directory"),
        (["--file", "."], "--file .: Is a directory"),
        (["3 mars", "--save", "picture.gif"], "--save: must end in .png, .svg, .pdf, got 'picture.gif'"),
        (["3 mars", "--save", "none/picture.svg"], "--save: the folder 'none' does not exist"),
    ],
)
def test_bad_input_gets_one_message(pellucid, arguments, message):
    status, out, err = pellucid("show", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"pellucid: {message}")
    assert err.count("\n") == 1
    assert len(err) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no date; write one on each line"),
        (b"\n \n", "holds no date; write one on each line"),
        (b"3 mars \xff", "is no UTF-8 text (byte 0xff at position 7); save it as UTF-8"),
        ("3 mars".encode("utf-16"), "is no UTF-8 text (byte 0xff at position 0); save it as UTF-8"),
        (b"3 mars\n" * 200_000, "is larger than 1 MiB; give fewer dates at a time"),
    ],
)
def test_bad_content_gets_one_message(pellucid, standard_input, tmp_path, content, message):
    path = tmp_path / "dates.txt"
    path.write_bytes(content)
    assert pellucid("show", "--file", path) == (1, "", f"pellucid: --file {path}: {message}\n")
    standard_input(content)
    assert pellucid("show") == (1, "", f"pellucid: standard input: {message}\n")


@pytest.mark.parametrize(
    "noise",
    [
        "\x00\x01\x1b[31m",
        "\udcff\udcfe",
        "".join(map(chr, range(0x300, 0x340))),
        "\u202e3 mars\u2066",
        "😀" * 9,
        "%s %n {0}",
        "[bold]3[/bold] :smile:",
    ],
)
def test_noise_is_read_and_shown_harmlessly(pellucid, noise):
    status, out, _ = pellucid("show", noise)
    assert status in (0, 1)
    assert not set(out) & set("\x00\x01\x1b\u202e\u2066")
    status, out, _ = pellucid("show", noise, "--json")
    if status == 0:
        assert json.loads(out)["text"] == noise


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3 mars", "--file", "dates.txt"], "--file: replaces TEXT; give one of the two"),
        ([], 'TEXT: give a date, as in: pellucid show "3 mars 1997"'),
        (["3 mars", "--attention", "self"], "argument --attention: invalid choice: 'self'"),
        (["3 mars", "--layer", "last"], "argument --layer: invalid int value: 'last'"),
        (["3 mars", "--head", "x"], "argument --head: must be the number of a head, or mean, got 'x'"),
        (["3 mars", "--hea", "1"], "unrecognized arguments: --hea"),
    ],
)
def test_wrong_usage(pellucid, standard_input, arguments, message):
    standard_input(terminal=True)
    status, out, err = pellucid("show", *arguments)
    assert (status, out) == (2, "")
    assert f"error: {message}" in err


@pytest.mark.parametrize("extension", ["png", "svg", "pdf"])
def test_save(pellucid, tmp_path, extension):
    path = tmp_path / f"picture.{extension}"
    status, out, err = pellucid("show", "3 mars", "--attention", "decoder", "--save", path, "--json")
    assert status == 0
    assert err.splitlines()[-1] == f"pellucid: saved {path}"  # matplotlib may speak of its font cache before
    assert json.loads(out)["text"] == "3 mars"
    assert path.stat().st_size > 1000


def test_save_draws_one_date(pellucid, standard_input, tmp_path):
    standard_input(b"3 mars\n4 mars\n")
    status, out, err = pellucid("show", "--save", tmp_path / "picture.png")
    assert (status, out, err) == (1, "", "pellucid: --save: draws one date, got 2; give one alone\n")
    assert os.listdir(tmp_path) == []


def test_save_without_matplotlib(pellucid, tmp_path, monkeypatch):
    pictures = "pellucid.viewer.pictures"
    for module in ("matplotlib", "matplotlib.figure", f"{pictures}.picture", f"{pictures}.fonts"):
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)
    monkeypatch.delattr(f"{pictures}.picture")
    monkeypatch.setattr("builtins.__import__", _without_matplotlib(__import__))
    status, out, err = pellucid("show", "3 mars", "--save", tmp_path / "picture.png")
    assert (status, out) == (1, "")
    assert err == "pellucid: --save: needs matplotlib, which is not installed; pip install matplotlib\n"


def _without_matplotlib(real_import):
    def restricted(name, *arguments, **options):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
        return real_import(name, *arguments, **options)

    return restricted


def test_a_picture_that_cannot_be_written(pellucid, tmp_path, monkeypatch):
    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(picture, "save", fail)
    status, _, err = pellucid("show", "3 mars", "--save", tmp_path / "picture.png")
    assert (status, err) == (1, "pellucid: --save: Permission denied\n")


def test_colours_on_demand(pellucid, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert "\x1b[48;2;" in pellucid("show", "3 mars")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[48;2;" not in pellucid("show", "3 mars")[1]


def test_columns_is_the_width(pellucid, monkeypatch):
    monkeypatch.setenv("COLUMNS", "42")
    _, out, _ = pellucid("show", "3 mars 1997 " * 6, "--attention", "encoder")
    assert max(map(len, out.splitlines()[4:-14])) <= 42


def test_missing_weights(pellucid, monkeypatch):
    def load():
        raise FileNotFoundError("path: there is no file 'weights.safetensors'")

    monkeypatch.setattr(demo, "load_reader", load)
    status, out, err = pellucid("show", "3 mars")
    assert (status, out) == (1, "")
    assert err == "pellucid: embedded model: path: there is no file 'weights.safetensors'\n"

import re

import pytest

from pellucid.demo.model.reading import LONGEST_TEXT
from pellucid.viewer.lesson.steps import notebook_lessons


def rows_under(out, heading):
    lines = out[out.index(heading) :].splitlines()[1:]
    return [line.split()[1:] for line in lines[: lines.index("")]]


def test_the_notebook(pellucid):
    status, out, err = pellucid("explain")
    assert (status, err) == (0, "")
    assert out.count("1. Tokens") == 2
    assert out.index("Self-attention\n") < out.index("\n\nCross-attention\n")
    own, _ = notebook_lessons(tokens=10, dim=4, context=6, seed=0)
    assert rows_under(out, "attended = weights @ V [10, 4]") == [
        [f"{value:.3f}" for value in row] for row in own.attended.tolist()
    ]


def test_sizes_and_seed(pellucid):
    _, out, _ = pellucid("explain", "--tokens", 5, "--dim", 3, "--context", 2, "--seed", 7)
    _, cross = notebook_lessons(tokens=5, dim=3, context=2, seed=7)
    assert "x [5, 3]" in out
    assert "(seed 7)" in out
    assert rows_under(out, "context [2, 3]") != []
    last = out[out.index("\n\nCross-attention\n") :]
    assert rows_under(last, "attended = weights @ V [5, 3]")[0] == [
        f"{value:.3f}" for value in cross.attended[0].tolist()
    ]


def test_differences_from_the_formulas_are_small(pellucid):
    differences = [float(number) for number in re.findall(r"\d\.\de[-+]\d\d", pellucid("explain")[1])]
    assert len(differences) == 10
    assert max(differences) < 1e-5


@pytest.mark.usefixtures("reader")
def test_a_text(pellucid):
    status, out, err = pellucid("explain", "--text", "3 mars", "--head", 1)
    assert (status, err) == (0, "")
    assert "Self-attention: layer 0 of the encoder, head 1" in out
    assert "Cross-attention: layer 0 of the decoder, head 1" in out
    assert "x [6, 24]" in out
    assert "weights = softmax(scores) [6, 6]" in out
    assert "weights = softmax(scores) [11, 6]" in out


def test_the_weights_explained_are_those_the_model_used(pellucid, reader):
    _, out, _ = pellucid("explain", "--text", "3 mars", "--head", 2)
    reading = reader.read("3 mars")
    for title, kind in (("Self-attention", "encoder"), ("Cross-attention", "cross")):
        expected = reading.attention[kind][0].weights(heads=2)[0, 0].tolist()
        part = out[out.index(title) :]
        shown = rows_under(part, "weights = softmax(scores)")[1:]
        assert [row[:-1] for row in shown] == [[f"{value:.3f}" for value in row] for row in expected]


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", ""], "text: it is empty"),
        (["--text", "x" * 10_000], f"text: at most {LONGEST_TEXT} characters, got 10000"),
        (["--text", "3 mars", "--head", "3"], "--head: the layer has 0-2, got 3"),
        (["--text", "3 mars", "--head", "-1"], "--head: the layer has 0-2, got -1"),
    ],
)
def test_bad_input_gets_one_message(pellucid, arguments, message):
    status, out, err = pellucid("explain", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"pellucid: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "0"], "argument --tokens: must be a whole number from 1 to 1000, got '0'"),
        (["--dim", "1001"], "argument --dim: must be a whole number from 1 to 1000, got '1001'"),
        (["--context", "2.5"], "argument --context: must be a whole number from 1 to 1000, got '2.5'"),
        (["--seed", "-1"], "argument --seed: must be a whole number from 0 to 9223372036854775807, got '-1'"),
        (["--text", "3 mars", "--dim", "4"], "--dim: is for random tokens; leave it out with --text"),
        (["--head", "0"], "--head: is for --text; random tokens have one head"),
        (["--no-browser"], "--no-browser: is for --page"),
    ],
)
def test_wrong_usage(pellucid, arguments, message):
    status, out, err = pellucid("explain", *arguments)
    assert (status, out) == (2, "")
    assert f"error: {message}" in err


@pytest.mark.parametrize("arguments", [["--tokens", 1, "--dim", 1, "--context", 1], ["--tokens", 1000, "--dim", 1000]])
def test_the_extremes(pellucid, arguments):
    status, out, _ = pellucid("explain", *arguments)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80


def test_a_scale(pellucid):
    _, out, _ = pellucid("explain", "--scale", 1.5)
    own, _ = notebook_lessons(10, 4, 6, 0, 1.5)
    assert rows_under(out, "attended = weights @ V [10, 4]") == [
        [f"{value:.3f}" for value in row] for row in own.attended.tolist()
    ]


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "1e9", "x"])
def test_scales_that_are_none(pellucid, scale):
    status, _, err = pellucid("explain", f"--scale={scale}")
    assert status == 2
    assert f"argument --scale: must be a number above 0 and up to 100, got '{scale}'" in err
@pytest.fixture
def opened(monkeypatch):
    """The addresses that a browser was asked to open."""
    addresses = []
    monkeypatch.setattr("webbrowser.open", lambda address: addresses.append(address) or True)
    return addresses


def test_as_a_page(pellucid, opened, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, out, err = pellucid("explain", "--page", "--tokens", 5, "--seed", 7)
    assert (status, err) == (0, "")
    (path,) = tmp_path.glob("*/explain.html")
    assert opened == [path.as_uri()] == out.splitlines()
    own, _ = notebook_lessons(tokens=5, dim=4, context=6, seed=7)
    assert str(own.tokens[0].tolist()) in path.read_text(encoding="utf-8")


def test_a_page_that_is_saved_opens_nothing(pellucid, opened, tmp_path):
    path = tmp_path / "page.html"
    assert pellucid("explain", "--save", path) == (0, "", f"pellucid: saved {path}\n")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    status, out, _ = pellucid("explain", "--page", "--no-browser", "--save", path)
    assert (status, out, opened) == (0, f"{path.as_uri()}\n", [])


@pytest.mark.usefixtures("reader")
def test_a_text_as_a_page(pellucid, tmp_path):
    path = tmp_path / "page.html"
    assert pellucid("explain", "--text", "3 mars", "--head", 1, "--save", path)[0] == 0
    assert "Self-attention: layer 0 of the encoder, head 1" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--page", "--tokens", "1000"],
            "--page: scores [1000, 1000]: the page has room for 16,384 numbers in a matrix.",
        ),
        (["--save", "no/where/page.html"], "--save: No such file or directory"),
    ],
)
def test_a_page_that_cannot_be(pellucid, opened, arguments, message):
    assert pellucid("explain", *arguments) == (1, "", f"pellucid: {message}\n")
    assert opened == []

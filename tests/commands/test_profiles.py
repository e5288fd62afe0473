"""`pellucid show`, `compare` and `view` of profiles."""

import json
import re
import shutil

import pytest

from pellucid.profiles.numbers import NUMBERS
from pellucid.viewer.terminal.profile_page import number_title
from tests.profiles import checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("profiles")
    checkpoints.whole().save(made / "before.heads")
    checkpoints.after().save(made / "after.heads")
    return made


@pytest.fixture
def before(folder):
    return folder / "before.heads"


@pytest.fixture
def after(folder):
    return folder / "after.heads"


def test_show_lists_every_head(pellucid, before):
    status, out, err = pellucid("show", before)
    assert (status, err) == (0, "")
    assert "profile  Tiny: 6 heads in 2 layers" in out
    assert "corpus   records: 11 documents, 134 tokens" in out
    assert "its end was not seen: every number is of the 11 that are in" in out
    table = out[out.index("sink over the documents") :]
    rows = [line.split()[:2] for line in table.splitlines() if re.match(r"^ +\d +\d ", line)]
    assert rows == [[str(layer), str(head)] for layer in (0, 1) for head in (0, 1, 2)]
    assert out.rstrip().endswith(f"in the browser: pellucid view {before}")


def test_show_sorts_by_any_number(pellucid, before, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    _, out, _ = pellucid("show", before, "--sort", "entropy", "--layer", 1)
    rows = [line.split() for line in out.splitlines() if re.match(r"^ +1 +\d ", line)]
    found = checkpoints.whole().statistics("entropy").mean[3:].sort(descending=True)
    assert [int(row[1]) for row in rows] == found.indices.tolist()
    assert [row[-5] for row in rows] == [f"{mean:.3f}" for mean in found.values.tolist()]


def test_show_has_one_head_with_its_text(pellucid, before, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = pellucid("show", before, "--layer", 1, "--head", 2, "--sort", "distance")
    assert status == 0
    assert "layer 1, head 2, causal self: layers.1" in out
    known = {name for name in NUMBERS if checkpoints.whole().statistics(name).documents[5]}
    lines = out.splitlines()
    assert {name for name in NUMBERS if any(line.startswith(f"{number_title(name)} ") for line in lines)} == known
    assert "mean weight by distance, in tokens back" in out
    best = checkpoints.whole().strongest_queries(5, "distance")[0]
    title = "strongest queries by distance, one a document\n"
    assert out[out.index(title) + len(title) :].startswith((f"{best.value:.3f}  ", f"{best.value:.1f}  "))
    assert f"[{best.query_token}]".replace("\n", "⏎") in out
    assert "keys that receive most, one a document" in out


def test_show_prints_json(pellucid, before):
    _, out, _ = pellucid("show", before, "--json", "--layer", 0, "--head", 1)
    document = json.loads(out)
    assert document["documents"] == 11
    assert document["corpora"][0]["done"] == [[0, 11]]
    (head,) = document["heads"]
    assert (head["layer"], head["module"], head["head"]) == (0, "layers.0", 1)
    found = checkpoints.whole().statistics("entropy")
    assert head["numbers"]["entropy"]["mean"] == float(found.mean[1])
    assert head["kind"]["name"] == checkpoints.whole().corpus_kinds()[1].name
    assert len(head["strongest"]["queries"]) == 4
    assert sum(one["mass"] for one in head["by_distance"]) == pytest.approx(1.0, abs=1e-5)
    _, out, _ = pellucid("show", before, "--json", "--sort", "entropy")
    means = [head["numbers"]["entropy"]["mean"] for head in json.loads(out)["heads"]]
    assert means == sorted(means, reverse=True)


def test_a_profile_is_known_by_what_it_says_too(pellucid, before, tmp_path):
    other = tmp_path / "profile of all"
    shutil.copy(before, other)
    assert "6 heads in 2 layers" in pellucid("show", other)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort", "speed"], "--sort: number: one of sink_mass, "),
        (["--layer", 2], "--layer: the profile has layers 0-1, got 2"),
        (["--layer", 0, "--head", 7], "--head: layer 0 has 0-2, got 7"),
        (["--head", 1], "--head: name its layer too, as in --layer 3 --head 5"),
        (["--layer", 0, "--head", "mean"], "--head: must be the number of a head; a profile has no mean of heads"),
        (["--pool", "max"], "--pool: is not for a profile; leave it out"),
        (["--save", "a.png"], "--save: is not for a profile; leave it out"),
        (["other.heads"], "TEXT: one profile is shown at a time; pellucid compare shows two of them, head by head"),
    ],
)
def test_show_names_what_is_wrong(pellucid, before, arguments, message):
    status, out, err = pellucid("show", before, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"pellucid: {message}")


def test_what_is_no_profile_is_said(pellucid, tmp_path):
    assert "none.heads: there is no such profile" in pellucid("show", tmp_path / "none.heads")[2]
    damaged = tmp_path / "damaged.heads"
    damaged.write_bytes(b"nothing")
    for command in (["show"], ["view", "--no-browser"], ["compare", damaged]):
        status, _, err = pellucid(*command, damaged)
        assert status == 1
        assert "damaged.heads: is no profile, or a damaged one" in " ".join(err.split())
    assert pellucid("show", "3 mars", "--sort", "entropy")[2] == (
        "pellucid: --sort: is for a profile; leave it out with a record or a date\n"
    )


def test_compare_shows_what_each_head_differs_most_in(pellucid, before, after, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = pellucid("compare", before, after)
    assert (status, err) == (0, "")
    assert "note  both read the same documents" in out
    found = checkpoints.whole().compared(checkpoints.after()).sorted()
    rows = [line.split()[:2] for line in out.splitlines() if re.match(r"^ +\d +\d ", line)]
    assert rows == [[str(head.layer), str(head.a.head)] for head in found.heads]
    assert all(number_title(head.strongest.number) in out for head in found.heads)


def test_compare_one_number_and_one_head(pellucid, before, after, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = pellucid("compare", before, after, "--sort", "entropy", "--layer", 0)
    assert out.count(" entropy ") == 3
    _, out, _ = pellucid("compare", before, after, "--layer", 0, "--head", 1)
    assert "layer 0, head 1, causal self: layers.0" in out
    assert "nearby, no sink" in out
    assert "11 and 11" in out


def test_compare_prints_json(pellucid, before, after):
    _, out, _ = pellucid("compare", before, after, "--json")
    document = json.loads(out)
    assert len(document["heads"]) == 6
    assert {"a", "b", "difference", "low", "high", "size", "probability", "sure"} < set(
        document["heads"][0]["numbers"]["entropy"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--layer", 5], "--layer: the profile has layers 0-1, got 5"), (["--sort", "speed"], "--sort: number: one of ")],
)
def test_compare_names_what_is_wrong(pellucid, before, after, arguments, message):
    status, _, err = pellucid("compare", before, after, *arguments)
    assert status == 1
    assert err.startswith(f"pellucid: {message}")


def test_view_saves_a_page(pellucid, before, tmp_path):
    page = tmp_path / "page.html"
    status, _, err = pellucid("view", before, "--save", page)
    assert (status, err) == (0, f"pellucid: saved {page}\n")
    assert "<title>Pellucid, before.heads</title>" in page.read_text()
    status, _, err = pellucid("view", before, "--save", tmp_path / "none" / "page.html")
    assert status == 1
    assert err.startswith("pellucid: --save: ")
    assert "RECORD: one profile is shown at a time" in pellucid("view", before, before)[2]


def test_a_profile_of_nothing_says_so(pellucid, before, tmp_path):
    path = tmp_path / "none.heads"
    checkpoints.empty().save(path)
    status, out, err = pellucid("show", path)
    assert (status, err) == (0, "")
    assert "profile  model: 0 heads in 0 layers" in out
    assert json.loads(pellucid("show", path, "--json")[1])["heads"] == []
    assert pellucid("show", path, "--layer", 0)[2] == (
        "pellucid: --layer: the profile has no layer: no document was read, got 0\n"
    )
    assert pellucid("view", path, "--save", tmp_path / "page.html")[0] == 0
    assert "no head of one is a head of the other" in pellucid("compare", path, before)[2]


def test_two_texts_are_told_apart(pellucid, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "translation.heads"
    checkpoints.translation().save(path)
    place = next(n for n, head in enumerate(checkpoints.translation().heads) if head.role == "cross")
    layer = sorted({head.layer for head in checkpoints.translation().heads[:place]})
    _, out, _ = pellucid("show", path, "--layer", len(layer), "--head", 0, "--sort", "entropy")
    example = checkpoints.translation().strongest_queries(place, "entropy")[0]
    assert f"[t{example.query}]" in out
    assert f"s{example.key}({example.weight:.2f})" in out

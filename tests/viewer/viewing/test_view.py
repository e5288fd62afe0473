"""`pellucid.view` and its like: what is shown, where, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient

import pellucid
from pellucid.record.observed import record_of
from pellucid.viewer.viewing import page as module
from tests.profiles import making

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that a browser was opened at."""
    found: list[str] = []
    monkeypatch.setattr(module.webbrowser, "open", found.append)
    return found


@pytest.fixture
def seen() -> pellucid.Observation:
    x = torch.randn(2, 5, 4)
    return pellucid.observe(x, x, x, is_causal=True)[1]


def info_of(page: Any) -> dict[str, Any]:
    with urllib.request.urlopen(page.url.split("#")[0] + "api/info") as answer:
        return json.load(answer)


def shown(what: Any, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """The records that a page of something shows."""
    page = pellucid.view(what, *arguments, **options)
    try:
        return info_of(page)["records"]
    finally:
        page.close()


def test_a_script_opens_the_browser(
    seen: pellucid.Observation, addresses: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    page = seen.view(state={"view": "map"})
    printed = capsys.readouterr()
    assert addresses == [page.url]
    assert printed.out == f"{page.url}\n"
    assert printed.out.rstrip().endswith("/#view=map")
    assert ".wait()" in printed.err
    assert info_of(page)["version"] == 1
    page.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(addresses[0])


def test_the_address_alone_is_printed_where_no_browser_is_wanted(
    seen: pellucid.Observation, addresses: list[str]
) -> None:
    seen.view(open_browser=False).close()
    assert addresses == []


def test_whatever_holds_attention_is_shown(seen: pellucid.Observation, tmp_path: Path) -> None:
    record = pellucid.Record("Mine", {}, tokens=[["a"]])
    record.save(tmp_path / "run.attn")
    weights = seen.weights()
    assert [one["model"] for one in shown(record)] == ["Mine"]
    assert [one["model"] for one in shown(tmp_path / "run.attn")] == ["Mine"]
    assert [one["model"] for one in shown([record, seen])] == ["Mine", "observation"]
    assert [layer["role"] for layer in shown(seen)[0]["layers"]] == ["causal self"]
    assert [layer["role"] for layer in shown(weights, list("abcde"))[0]["layers"]] == ["causal self"]
    assert [layer["role"] for layer in shown(weights, list("abcde"), list("vwxyz"))[0]["layers"]] == ["cross"]
    assert len(shown((weights[None], weights[None]))[0]["layers"]) == 2
    assert shown(weights)[0]["layers"][0]["exact"]


@pytest.mark.parametrize(
    ("what", "options", "error", "message"),
    [
        ("no.attn", {}, ValueError, "no.attn"),
        (5, {}, TypeError, "a dense tensor|floating-point numbers are needed"),
        (torch.rand(2, 5, 5), {"height": 0}, ValueError, "height: a whole number of pixels"),
        (
            torch.rand(2, 5, 5),
            {"state": ["map"]},
            TypeError,
            "state: a dict of the address's words is needed, got list",
        ),
        (torch.rand(2, 5, 5), {"tokens": ["a"]}, ValueError, "tokens: 5 are needed, got 1"),
        (pellucid.Record(), {"tokens": ["a"]}, TypeError, "a record has its own"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    what: Any, options: dict[str, Any], error: type[Exception], message: str, addresses: list[str]
) -> None:
    with pytest.raises(error, match=message):
        pellucid.view(what, **options)
    assert addresses == []


def test_a_profile_has_a_page_of_its_own(addresses: list[str], tmp_path: Path) -> None:
    profile = making.profile()
    profile.save(tmp_path / "all.heads")
    for shown in (profile, tmp_path / "all.heads", str(tmp_path / "all.heads")):
        page = pellucid.view(shown)
        with urllib.request.urlopen(page.url + "api/profile") as answer:
            found = json.load(answer)
        assert found["documents"] == 3
        assert addresses.pop() == page.url
        page.close()
    assert found["title"] == "all.heads"
    assert profile.view().save(tmp_path / "page.html").stat().st_size > 10_000
    with pytest.raises(FileExistsError):
        pellucid.view(profile).save(tmp_path / "page.html", overwrite=False)
    with pytest.raises(TypeError, match="a profile has its own"):
        pellucid.view(profile, tokens=["a"])
    (tmp_path / "all.heads").write_bytes(b"x")
    with pytest.raises(ValueError, match="is no profile"):
        pellucid.view(tmp_path / "all.heads")


def test_a_profile_in_a_notebook_s_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "in_notebook", lambda: True)
    widget = making.profile().view(height=300).widget
    assert "function renderProfileWidget" in widget._esm
    sent: list[Any] = []
    monkeypatch.setattr(widget, "send", lambda content, buffers=None: sent.append((content, buffers)))
    widget.ask({"id": "a-1", "path": "api/head", "query": {"head": "2"}})
    ((content, buffers),) = sent
    assert (content["status"], json.loads(buffers[0])["telling"] in pellucid.profiles.numbers.NUMBERS) == (200, True)


def test_waiting_ends_at_ctrl_c(seen: pellucid.Observation, tmp_path: Path) -> None:
    code = """
import os, signal, threading, torch, pellucid
x = torch.rand(2, 5, 4)
page = pellucid.observe(x, x, x)[1].view(open_browser=False)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
page.wait()
print("after")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("after\n")
    assert "Traceback" not in ran.stderr
    assert "is served no more" in ran.stderr


def test_what_is_missing_is_said(seen: pellucid.Observation, monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.viewer.viewing import surroundings

    monkeypatch.setattr(surroundings, "find_spec", lambda name: None if name == "uvicorn" else True)
    with pytest.raises(ImportError, match=r'^the page needs uvicorn, .*pip install "pellucid\[view\]"$'):
        seen.view()


@pytest.mark.slow
def test_a_notebook_shows_a_widget(tmp_path: Path) -> None:
    cells = [
        "import torch, pellucid\nx = torch.rand(2, 5, 4)\n_, seen = pellucid.observe(x, x, x)",
        "seen.view(list('abcde'))",
        "pellucid.view(seen.weights(), height=300)",
        "page = seen.view()\npage.save('page.html')",
        "question = {'id': 'a', 'path': 'api/info', 'query': {}}\npage.widget.ask(question)\nprint('asked')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [[output.get("data", {}) for output in cell.outputs] for cell in notebook.cells]
    for output in outputs[1:3]:
        assert ["application/vnd.jupyter.widget-view+json" in data for data in output] == [True]
    assert (tmp_path / "page.html").stat().st_size > 10_000
    streams = [output for cell in notebook.cells for output in cell.outputs if output.output_type == "stream"]
    assert [stream.text for stream in streams] == ["asked\n"]


@pytest.mark.slow
def test_the_wheel_holds_the_page(tmp_path: Path) -> None:
    """As it is built: nothing of the page is missing, and nothing that only serves its development is there."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "pellucid").symlink_to(ROOT / "pellucid")
    code = "from setuptools import setup; setup()"
    (source / "setup.py").write_text(code, encoding="utf-8")
    built = tmp_path / "built"
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(built)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=source)
    assert ran.returncode == 0, ran.stderr
    page = ROOT / "pellucid" / "viewer" / "page"
    wanted = sorted(path.name for path in page.iterdir() if path.suffix in (".js", ".css", ".html"))
    assert sorted(path.name for path in (built / "pellucid" / "viewer" / "page").iterdir()) == wanted
    assert not [path for path in built.rglob("*") if path.name == "axe.min.js" or path.suffix in (".ts", ".map")]


@pytest.mark.parametrize("options", [{}, {"tokens": list("abcde")}, {"role": "self"}])
def test_a_page_says_how_its_record_is_made_from_what_it_was_given(
    seen: pellucid.Observation, options: dict[str, Any]
) -> None:
    weights = seen.weights()
    tokens = {name: value for name, value in options.items() if name != "role"}
    for name, given in (("seen", seen), ("weights", weights)):
        (found,) = shown(given, open_browser=False, **options)
        assert found["opens"].startswith(f"# {', '.join([name, *tokens])}: what ")
        names: dict[str, Any] = {name: given, **tokens}
        exec(found["opens"], names)
        record = names["record"]
        assert record.layers == [layer["name"] for layer in found["layers"]]
        assert [layer.role for layer in record.values()] == [layer["role"] for layer in found["layers"]]
        torch.testing.assert_close(record[0].weights()[0], weights)


def test_records_of_a_list_are_told_apart(seen: pellucid.Observation) -> None:
    found = shown([record_of(seen), seen], open_browser=False)
    assert [one["opens"].splitlines()[0] for one in found] == [
        "# record: item 0 of the list that pellucid.view was given",
        "# seen: item 1 of the list that pellucid.view was given",
    ]

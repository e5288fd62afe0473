"""What a newcomer copies must run: the examples, the notebook, and the Python of the README and the docs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import notebook

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Those that take minutes, on a tiny budget.
ARGUMENTS = {
    "train_characters": ["--steps", "3", "--threads", "1"],
    "train_sharp_heads": ["--steps", "2", "--threads", "1", "--entropy-penalty", "0.2"],
}
WRITTEN = {
    "train_characters": ["loss.png", "model.pt"],
    "train_sharp_heads": ["heads.png", "loss.png", "with.pt", "without.pt"],
}


def blocks_of(page: Path) -> str:
    """The Python of a page, one block after the other, as a reader would paste it."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


def run(example: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python example.py` runs it."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", [example.name, *arguments])
    monkeypatch.syspath_prepend(str(example.parent))
    try:
        runpy.run_path(str(example), run_name="__main__")
    finally:
        torch.set_num_threads(threads)


@pytest.mark.sampled
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")] if example.stem in ARGUMENTS else []
    run(example, [*ARGUMENTS.get(example.stem, []), *out], monkeypatch)
    printed = capsys.readouterr()
    assert printed.out.strip()
    assert "nan" not in printed.out
    assert not printed.err
    if out:
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == WRITTEN[example.stem]


def test_training_that_is_interrupted_leaves_a_model_and_a_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, clip = [], torch.nn.utils.clip_grad_norm_

    def interrupted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return clip(*given)

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", interrupted)
    example = ROOT / "examples" / "train_characters.py"
    run(example, ["--steps", "9", "--attention", "torch", "--threads", "1", "--out", str(tmp_path)], monkeypatch)
    assert "Stopped after step 2" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "model.pt"]
    model = runpy.run_path(str(example))["load"](tmp_path / "model.pt")
    assert len(model.write("\n", 5)) == 5


@pytest.mark.parametrize("written", [None, b"\xff\xfe", b"short"], ids=["missing", "not UTF-8", "short"])
def test_a_text_that_cannot_be_used_is_told_in_a_line(
    written: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "book.txt"
    if written is not None:
        text.write_bytes(written)
    with pytest.raises(SystemExit, match=r"^--text: .*book\.txt"):
        run(ROOT / "examples" / "train_characters.py", ["--text", str(text)], monkeypatch)


def test_qk_clip_leaves_heads_alone_whose_largest_score_is_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "qk_clip.py"))
    layer, size = example["model"].layers[0].self_attn, example["WIDTH"] // example["HEADS"]
    changed = layer.in_proj_weight.detach()[: 2 * example["WIDTH"]]
    before = changed.clone()
    largest = torch.full((3, example["HEADS"]), -torch.inf)
    largest[0] = torch.tensor([-5.0, 0.0, example["LIMIT"], 4 * example["LIMIT"]])
    example["clip"](largest)
    factors = torch.tensor([1.0, 1.0, 1.0, 0.5]).repeat_interleave(size).repeat(2)
    torch.testing.assert_close(
        layer.in_proj_weight[: 2 * example["WIDTH"]], factors[:, None] * before[: 2 * example["WIDTH"]]
    )


@pytest.mark.sampled
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_python_of_a_page(page: Path) -> None:
    exec(compile(blocks_of(page), str(page), "exec"), {"__name__": "page"})


def test_the_readme_shows_python() -> None:
    assert "import pellucid" in blocks_of(ROOT / "README.md")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_notebook_is_kept_with_the_outputs_of_a_run_from_top_to_bottom() -> None:
    cells = notebook.code_cells(notebook.stored())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(len(notebook.pictures(cell)) for cell in cells) >= 7
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]


@pytest.mark.slow
def test_outputs_of_the_notebook_are_the_current_ones(tmp_path: Path) -> None:
    """The words, the numbers up to rounding, and the pictures up to how a version of matplotlib draws letters.

    `python -m tests.notebook` stores them anew.
    """
    kept, new = map(notebook.code_cells, (notebook.stored(), notebook.executed(tmp_path)))
    for before, now in zip(kept, new, strict=True):
        assert notebook.words(notebook.texts(before)) == notebook.words(notebook.texts(now)), now.source
        numbers = [notebook.numbers(notebook.texts(cell)) for cell in (now, before)]
        torch.testing.assert_close(*numbers, rtol=2e-3, atol=2e-4)
        assert not [output for output in now.outputs if output.get("name") == "stderr"]
        for drawn in zip(notebook.pictures(now), notebook.pictures(before), strict=True):
            torch.testing.assert_close(*drawn, rtol=0, atol=0.2)

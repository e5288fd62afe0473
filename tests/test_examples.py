"""What a newcomer copies must run: the examples, the notebook, and the Python of the README and the docs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

from tests import notebook

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(page: Path) -> str:
    """The Python of a page, one block after the other, as a reader would paste it."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr()
    assert printed.out.strip()
    assert "nan" not in printed.out
    assert not printed.err


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

"""How large a piece of the code may be: a file, a folder, a function."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOTS = ("pellucid", "benchmarks")
MOST_LINES = 500  # of a file
MOST_MODULES = 15  # of a folder, __init__.py too
MEDIAN, USUAL, MOST = 8, 30, 80  # lines of a function, docstrings and blank ones left out: half's, nine in ten's, any's

FILES = sorted(path for root in ROOTS for path in (ROOT / root).rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines_of_functions(source: str) -> Iterator[tuple[int, str]]:
    """Of each function, what is defined inside of it being a part of it: its lines and its name."""
    lines, tree = source.splitlines(), ast.parse(source)
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()} | set(docstring_lines(tree))
    for node in ast.walk(tree):
        if isinstance(node, Function):
            own = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            yield len(set(own) - blank), node.name


def docstring_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef) and ast.get_docstring(node) is not None:
            yield from range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


FUNCTIONS = sorted(
    (lines, f"{name_of(path)}: {name}")
    for path in FILES
    for lines, name in lines_of_functions(path.read_text(encoding="utf-8"))
)


def test_a_function_is_measured_without_what_only_describes_it() -> None:
    source = '''
def outer(
    x,
):
    """Two

    lines."""

    # a comment
    def inner():
        """One."""
        return x

    return inner
'''
    assert list(lines_of_functions(source)) == [(7, "outer"), (2, "inner")]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_read_at_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_is_seen_at_a_glance(folder: Path) -> None:
    modules = len(list(folder.glob("*.py")))
    assert modules <= MOST_MODULES


def test_functions_are_short() -> None:
    lengths = [lines for lines, _ in FUNCTIONS]
    assert len(lengths) > 1000
    assert statistics.median(lengths) <= MEDIAN
    assert statistics.quantiles(lengths, n=10)[-1] <= USUAL
    assert not [name for lines, name in FUNCTIONS if lines > MOST]

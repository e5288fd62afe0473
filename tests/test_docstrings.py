"""Whoever takes four arguments or more says what each is, and whoever raises says so: read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pellucid"
MANY = 4
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
TREES = {path: ast.parse(source) for path, source in SOURCES.items()}
CLASSES = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
Owner = ast.ClassDef | None


def members(body: list[ast.stmt], owner: Owner = None) -> Iterator[tuple[Owner, ast.FunctionDef | ast.ClassDef]]:
    """Public functions and classes with their `__init__`, but none inside of a function."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (node.name == "__init__" or node.name[0] != "_"):
            yield owner, node
            yield from members(node.body, node) if isinstance(node, ast.ClassDef) else ()


def said(owner: Owner, name: str) -> Iterator[str]:
    """Docstrings of a method, and of those in the package that it overrides; a class's own are its `__init__`'s."""
    for node in owner.body if owner else ():
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield (ast.get_docstring(owner) if name == "__init__" and owner else ast.get_docstring(node)) or ""
    bases = [ast.unparse(base) for base in owner.bases] if owner else []
    for base in (kind for kind in CLASSES if kind.name in bases and kind is not owner):
        yield from said(base, name)


def raises(node: ast.AST) -> bool:
    """Whether a body has `raise X(...)`, what is defined inside of it left out."""
    inner = (n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda))
    return (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)) or any(map(raises, inner))


@pytest.mark.parametrize("path", sorted(TREES))
def test_arguments_and_errors_are_described(path: str):
    due = []
    for owner, node in members(TREES[path].body):
        docs = [ast.get_docstring(node) or "", *said(owner, node.name)]
        if isinstance(node, ast.FunctionDef):
            names = [n.arg for n in ast.walk(node.args) if isinstance(n, ast.arg) and n.arg not in ("self", "cls")]
            described = any("Args:" in doc and all(f"{name}: " in doc for name in names) for doc in docs)
            whole = [*docs, (owner and ast.get_docstring(owner)) or ""]
            due += [node.name] if len(names) >= MANY and not described else []
            due += [f"{node.name} raises"] if raises(node) and not any("Raise" in text for text in whole) else []
        elif {"dataclass", "NamedTuple"} & {ast.unparse(n).split("(")[0] for n in node.decorator_list + node.bases}:
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            lines = SOURCES[path].splitlines()[fields[0].lineno - 1 : fields[-1].end_lineno] if fields else []
            described = any(word in docs[0] for word in ("Args:", "Attributes:")) or "#" in "".join(lines)
            due += [node.name] if len(fields) >= MANY and not described else []
    assert not due

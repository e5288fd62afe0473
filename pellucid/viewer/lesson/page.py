"""The lesson as a page, one file that opens from disk: the same matrices, and numbers that may be changed."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from torch import Tensor

from pellucid.viewer.browser.bundle import joined, page_text
from pellucid.viewer.lesson.explain import ATTENDED, SCORES, WEIGHTS, Words
from pellucid.viewer.lesson.steps import Lesson

MOST = 1 << 14  # numbers of a matrix, each a cell of a table
_OPEN = (
    "openExplain(document.getElementById('pellucid'), "
    "JSON.parse(document.getElementById('pellucid-lessons').textContent));\n"
)


def explain_page(lessons: Sequence[tuple[Lesson, Words]]) -> str:
    """The page of some lessons, as HTML.

    Raises:
        ValueError: a matrix of more than `MOST` numbers.
    """
    for lesson, _ in lessons:
        _check_size(lesson)
    script = f'"use strict";\n{joined("explain.js")}{_OPEN}'
    style = page_text("explain.css")
    told = json.dumps([_told(lesson, words) for lesson, words in lessons], allow_nan=False)
    parts = {
        "@POLICY@": f"default-src 'none'; img-src data:; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'",
        "@STYLE@": style,
        "@LESSONS@": told.replace("<", "\\u003c"),
        "@SCRIPT@": script,
    }
    return "".join(parts.get(part, part) for part in _split(page_text("explain.html"), parts))


def _check_size(lesson: Lesson) -> None:
    tables = {"x": lesson.tokens, "scores": lesson.scores, "W_q": lesson.projections[0].weight}
    if lesson.context is not None:
        tables["context"] = lesson.context
    for name, matrix in tables.items():
        if matrix.numel() > MOST:
            raise ValueError(f"{name} {list(matrix.shape)}: the page has room for {MOST:,} numbers in a matrix.")


def _split(template: str, names: dict[str, Any]) -> Iterator[str]:
    """The template's text and the names in it, in their order."""
    for name in names:
        before, _, template = template.partition(name)
        yield from (before, name)
    yield template


def _hash(text: str) -> str:
    """How a policy names a script or a style within the page."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _told(lesson: Lesson, words: Words) -> dict[str, Any]:
    """A lesson as the page takes it."""
    return {
        "title": words.title,
        "introduction": words.introduction,
        "sentences": {
            "tokens": words.tokens,
            "projection": words.learned,
            "projected": words.projection,
            "scores": SCORES.format(head_dim=lesson.query.shape[-1]),
            "weights": WEIGHTS,
            "attended": ATTENDED,
        },
        "formulas": {"query": words.query, "key": words.key, "value": words.value},
        "tokens": lesson.tokens.tolist(),
        "context": _listed(lesson.context),
        "query_labels": lesson.query_labels,
        "key_labels": lesson.key_labels,
        "projections": [{"weight": one.weight.tolist(), "bias": _listed(one.bias)} for one in lesson.projections],
        "rotary": None if lesson.rotary is None else {"base": lesson.rotary.base},
    }


def _listed(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.tolist()

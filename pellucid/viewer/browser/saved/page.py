"""One file with the page, its script, and the answers: it opens from disk, and its policy lets it ask nobody."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pellucid.record.disk.atomic import write_atomically
from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.browser.bundle import BundleError, page_text, saved_script
from pellucid.viewer.browser.saved.gather import Gathering, Told, Window
from pellucid.viewer.titles import record_title

MAX_BYTES = 20_000_000
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body class="pl-body">
<div id="pellucid"><noscript>This page draws attention maps and needs JavaScript.</noscript></div>
<script type="application/json" id="pellucid-answers">{answers}</script>
<script>{script}</script>
</body>
</html>
"""


def save(
    answers: Answers,
    path: str | os.PathLike[str],
    *,
    max_bytes: int = MAX_BYTES,
    windows: Sequence[Window] = (),
    overwrite: bool = True,
    state: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of some records to one file, whole or not at all.

    Args:
        answers: of the records.
        path: of the file.
        max_bytes: what it may take.
        windows: what is inside exactly in any case: `(layer, head, queries, keys)`.
        overwrite: whether a file that is there is replaced.
        state: where the page begins, the words of its address.

    Returns:
        The file.

    Raises:
        FileExistsError: it is there, and is not to be replaced.
        FileNotFoundError: its folder is not there.
        OSError: it cannot be written.
        ValueError: what is always inside does not fit, or a window is none of the first record's.

    """

    def made() -> str:
        with progress() as told:
            return page_of(answers, max_bytes, windows, state or {}, told)

    return written(path, made, overwrite=overwrite)


def written(path: str | os.PathLike[str], made: Callable[[], str], *, overwrite: bool = True) -> Path:
    """Make a page and write it, once it is known that it can be, whole or not at all; the file. Raises OSError."""
    file = Path(path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file}: there is no folder {file.parent}")
    if file.is_dir() or (file.exists() and not overwrite):
        raise FileExistsError(f"{file}: is there already")
    text = made()
    write_atomically(file, lambda opened: opened.writelines([text.encode("utf-8")]))
    return file


def page_of(answers: Answers, max_bytes: int, windows: Sequence[Window], state: Mapping[str, str], told: Told) -> str:
    """The page as text; see `save`.

    Args:
        answers: of the records.
        max_bytes: what it may take.
        windows: what is inside exactly in any case.
        state: where the page begins.
        told: is called with how much is done, and with what is done next.

    Raises:
        BundleError: the page's script cannot lie in it.
        ValueError: as `save`.

    """
    script, style = saved_script(), page_text("style.css")
    held = Gathering(answers, fits_in_page(script, style, max_bytes), windows, told).run()
    title = ", ".join(["Pellucid", *(record_title(record) for record in answers.records.values())])
    return html_of(script, style, title, {"answers": held, "state": dict(state)})


def fits_in_page(script: str, style: str, max_bytes: int) -> int:
    """The bytes that a page has room for beside its script and style. Raises BundleError where they cannot be in it."""
    for name, text in (("script", script), ("style", style)):
        if f"</{name}" in text.lower() or "<!--" in text:
            raise BundleError(f"the page's {name} would end where it is embedded")
    return max_bytes - sum(len(text.encode("utf-8")) for text in (script, style, _PAGE))


def html_of(script: str, style: str, title: str, answers: Mapping[str, Any]) -> str:
    """A page whose script finds answers in it, and which asks nobody else.

    Args:
        script: that opens it.
        style: its look.
        title: of its window.
        answers: what the script finds, as JSON.

    """
    return _PAGE.format(
        policy=html.escape(
            f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src blob: data:; "
            "base-uri 'none'; form-action 'none'"
        ),
        title=html.escape(title),
        style=style,
        answers=_json(answers),
        script=script,
    )


def _json(value: Any) -> str:
    """JSON that no HTML parser takes for an end of its script, in ASCII."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


@contextmanager
def progress() -> Iterator[Told]:
    """A bar on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda fraction, what: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("saving", total=1.0)
        yield lambda fraction, what: bar.update(task, completed=fraction, description=what)

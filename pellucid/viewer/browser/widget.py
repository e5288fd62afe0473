"""The page in a notebook's cell: an anywidget whose kernel side answers what its page asks for."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anywidget
import traitlets

from pellucid.viewer.browser.bundle import page_text, profile_widget_script, widget_script
from pellucid.viewer.browser.values import Answer, Answering
from pellucid.viewer.viewing.surroundings import has_kernel

_MOST_CANCELLED = 1000  # questions that are remembered as taken back
_SCRIPTS = {"index.html": widget_script, "profile.html": profile_widget_script}  # by the page that a browser opens
_WORKERS = ThreadPoolExecutor(4, thread_name_prefix="pellucid-widget")


class Widget(anywidget.AnyWidget):
    """The page of some records, or of a profile, in a cell.

    Its page sends `{id, path, query, text}` and is answered `{id, status, headers, size}` with the bytes as a buffer,
    or where `text` is asked for, with the bytes in base64 as `text`: some front ends drop buffers. `{id, cancel}` takes
    a question back that is not answered yet.

    Args:
        answers: what is asked.
        state: where the page begins, the words of its address.
        height: of the cell, in pixels.

    """

    height = traitlets.Int(640).tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, answers: Answering, *, state: Mapping[str, str] | None = None, height: int = 640) -> None:
        self.add_traits(
            _esm=traitlets.Unicode(_SCRIPTS[answers.index]()).tag(sync=True),
            _css=traitlets.Unicode(page_text("style.css")).tag(sync=True),
        )
        super().__init__(height=height, state=dict(state or {}))
        self._answers = answers
        self._cancelled: dict[str, None] = {}  # the newest last
        self.on_msg(_asked)

    def ask(self, question: Any) -> None:
        """Answer one message of the page; what is none is left alone."""
        if not isinstance(question, dict) or not isinstance(question.get("id"), str):
            return
        if question.get("cancel"):
            self._cancelled[question["id"]] = None
            if len(self._cancelled) > _MOST_CANCELLED:  # of most the answer was on its way already
                del self._cancelled[next(iter(self._cancelled))]
        elif has_kernel():  # which stays free for cells meanwhile
            _WORKERS.submit(self._answer, question)
        else:
            self._answer(question)

    def _answer(self, question: dict[str, Any]) -> None:
        name = question["id"]
        if name in self._cancelled:
            self._cancelled.pop(name, None)
            return
        answer = self._found(question)
        reply = {"id": name, "status": answer.status, "headers": _headers(answer), "size": len(answer.body)}
        if question.get("text"):
            self.send(reply | {"text": base64.b64encode(answer.body).decode("ascii")})
        else:
            self.send(reply, buffers=[answer.body])

    def _found(self, question: dict[str, Any]) -> Answer:
        path, query = question.get("path"), question.get("query")
        if not isinstance(path, str) or not isinstance(query, dict):
            return Answer(b"path and query are needed", "text/plain", 400)
        return self._answers.get(path, {str(name): str(value) for name, value in query.items()})


def _asked(widget: Widget, question: Any, buffers: Any) -> None:
    widget.ask(question)


def _headers(answer: Answer) -> dict[str, str]:
    """As a browser names them."""
    return {name.lower(): value for name, value in answer.headers.items()} | {"content-type": answer.media_type}

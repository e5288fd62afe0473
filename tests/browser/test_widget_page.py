"""The widget's page in a cell, before a kernel that is played by the server's answers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.browser.bundle import page_text, widget_script
from pellucid.viewer.browser.widget import Widget
from tests.browser import records
from tests.browser.conftest import Watched

# What anywidget's front end does: a model whose messages go to the kernel, and a cell that `render` is given.
CELL = """
import widget from "./widget.js";
const decoded = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const listeners = new Set();
const model = (state) => ({
  get: (name) => ({ height: 500, state })[name],
  on: (event, listener) => listeners.add(listener),
  off: (event, listener) => listeners.delete(listener),
  send: async (content) => {
    for (const [reply, buffers] of JSON.parse(await window.kernel(JSON.stringify(content))))
      for (const listener of listeners) listener(reply, window.drops ? [] : buffers.map(decoded));
  },
});
window.listeners = listeners;
window.leave = [
  widget.render({ model: model({ view: "map", layer: "1", heads: "0" }), el: document.getElementById("one") }),
  widget.render({ model: model({ view: "heads" }), el: document.getElementById("two") }),
];
"""
NOTEBOOK = "<!doctype html><title>notebook</title><style>{}</style><div id=one></div><div id=two></div>"


@pytest.fixture
def questions() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def cells(watched: Watched, questions: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Opens a page with two cells; `drops`: a front end that loses the bytes of messages."""
    sent: list[Any] = []
    monkeypatch.setattr(Widget, "send", lambda self, content, buffers=None: sent.append((content, buffers or [])))
    widget = Widget(Answers({"r0": records.sentence()}))

    def kernel(message: str) -> str:
        questions.append(json.loads(message))
        widget.ask(questions[-1])
        replies = [(content, [base64.b64encode(one).decode() for one in buffers]) for content, buffers in sent]
        sent.clear()
        return json.dumps(replies)

    def start(drops: bool = False) -> Page:
        page = watched.context.new_page()
        page.on("pageerror", lambda error: watched.wrong.append(str(error)))
        page.expose_function("kernel", kernel)
        files = {
            "/": ("text/html", NOTEBOOK.format(page_text("style.css"))),
            "/widget.js": ("text/javascript", widget_script()),
            "/cell.js": ("text/javascript", CELL),
        }

        def fulfil(route) -> None:
            kind, body = files[route.request.url.removeprefix("http://notebook.test")]
            route.fulfill(content_type=f"{kind}; charset=utf-8", body=body)

        page.route("http://notebook.test/**", fulfil)
        page.goto("http://notebook.test/")
        page.evaluate(f"window.drops = {json.dumps(drops)}")
        page.add_script_tag(url="http://notebook.test/cell.js", type="module")
        page.locator('#one .pl-view > [aria-busy="false"]').wait_for()
        page.locator('#two .pl-view > [aria-busy="false"]').wait_for()
        return page

    return start


def test_two_cells_show_two_views(cells, watched: Watched) -> None:
    page = cells()
    watched.shoot(page, "widget")
    expect(page.locator("#one .pl-map")).to_have_attribute("data-drawn", "final")
    expect(page.locator("#two .pl-wall [role=option]")).to_have_count(11)
    box = page.locator("#one > *").bounding_box()
    assert box is not None
    assert box["height"] == 500
    assert page.evaluate("location.hash") == ""


def test_bytes_are_asked_for_as_text_where_buffers_are_dropped(cells, questions: list[dict[str, Any]]) -> None:
    page = cells(drops=True)
    expect(page.locator("#one .pl-map")).to_have_attribute("data-drawn", "final")
    assert any(question.get("text") for question in questions)


def test_leaving_takes_everything_away(cells) -> None:
    page = cells()
    assert page.evaluate("listeners.size") == 2
    page.evaluate("leave.forEach((one) => one())")
    assert page.evaluate("listeners.size") == 0
    assert page.locator("#one > *, #two > *").count() == 0


def test_a_key_pressed_in_one_cell_is_not_meant_for_another(cells) -> None:
    page = cells()
    tabs = page.locator("#one").get_by_role("navigation", name="views")
    page.locator("#one").get_by_role("application").focus()
    page.keyboard.press("]")
    page.locator('#one .pl-view > [aria-busy="false"]').wait_for()
    expect(tabs.get_by_role("button", name="Map", exact=True)).to_have_attribute("aria-current", "page")
    heads = page.locator("#two").get_by_role("navigation", name="views").get_by_role("button", name="Heads")
    expect(heads).to_have_attribute("aria-current", "page")

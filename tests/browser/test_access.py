"""axe-core finds no fault with any view, light or dark, and everything can be reached by keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from pellucid.viewer.viewing.served import Served
from tests.browser import records
from tests.browser.conftest import DEVELOPMENT, Watched, settled
from tests.browser.test_opening import VIEWS
from tests.browser.test_reading import pictured

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def faults(page: Page) -> list[str]:
    path = DEVELOPMENT / "axe-core" / "axe.min.js"
    if not path.exists():
        pytest.fail(f"axe-core is not at {path}: npm ci --prefix tests/browser, or name PELLUCID_NODE_MODULES")
    page.evaluate(path.read_text(encoding="utf-8"))
    found = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
    return [
        f"{fault['id']}: {fault['help']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for fault in found["violations"]
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("view", VIEWS)
def test_no_fault_in_light_colours(watched: Watched, sentence: str, view: str) -> None:
    page = watched.open(f"{sentence}#view={view}&layer=2&heads=0&query=1&key=1&fixed=1")
    settled(page)
    assert faults(page) == []


@pytest.mark.parametrize("view", VIEWS)
def test_no_fault_in_dark_colours(dark: Watched, sentence: str, view: str) -> None:
    page = dark.open(f"{sentence}#view={view}&layer=2&heads=0&query=1&key=1&fixed=1")
    settled(page)
    assert faults(page) == []


@pytest.mark.parametrize("window", ["watched", "dark"])
def test_no_fault_in_pictures_and_lessons(
    request: pytest.FixtureRequest, serve: Callable[..., Served], window: str
) -> None:
    steps = [{"title": "One", "text": "A picture.", "state": {"view": "image", "heads": "1", "fixed": "14"}}]
    lesson = {"name": "try", "title": "A try", "warning": "attention is not explanation", "steps": steps}
    page = request.getfixturevalue(window).open(serve(r0=pictured(), lesson=lesson).address)
    settled(page)
    assert page.locator(".pl-image").is_visible()
    assert faults(page) == []


@pytest.mark.parametrize("view", ["map", "text", "cross"])
@pytest.mark.parametrize("more", ["", "&fixed=1,3&several=each&query=2"])
def test_no_fault_with_odd_tokens_and_nothing_or_much_chosen(
    watched: Watched, serve: Callable[..., Served], view: str, more: str
) -> None:
    address = serve(r0=records.sentence([" ", "\n", "a", "  ", "\t", "", "b", "\u3000"])).address
    page = watched.open(f"{address}#view={view}&layer=2&heads=0{more}", width=1500)
    settled(page)
    assert faults(page) == []


@pytest.mark.parametrize("name", ["Copy", "Bookmarks", "Save picture", "help"])
def test_no_fault_in_what_opens_and_escape_closes_it(watched: Watched, sentence: str, name: str) -> None:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=0")
    settled(page)
    button = page.get_by_role("button", name=name)
    button.click()
    page.wait_for_timeout(200)
    assert faults(page) == []
    page.keyboard.press("Escape")
    expect(button).to_be_focused()


@pytest.mark.parametrize("view", VIEWS)
def test_the_tab_key_leads_through_the_page(watched: Watched, sentence: str, view: str) -> None:
    """Every place that has the focus can be seen to have it, and the first leads past the header."""
    page = watched.open(f"{sentence}#view={view}&layer=2&heads=0")
    settled(page)
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        where = page.evaluate(
            """() => {
              const element = document.activeElement;
              if (!element || element === document.body) return null;
              const style = getComputedStyle(element);
              const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
              return [element.outerHTML.slice(0, 80), outlined || style.boxShadow !== 'none'];
            }"""
        )
        if where is None:
            break
        seen.append(where[0])
        assert where[1], f"the focus cannot be seen on {where[0]}"
    assert len(set(seen)) > 10

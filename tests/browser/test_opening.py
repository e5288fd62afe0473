"""The page opens, asks nobody but its server, and shows whatever tokens hold without obeying it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pellucid.viewer.viewing.served import Served
from tests.browser import records
from tests.browser.conftest import Watched, settled


def test_it_opens(watched: Watched, sentence: str) -> None:
    page = watched.open(sentence)
    settled(page)
    watched.shoot(page, "heads")
    assert page.title()
    assert page.get_by_role("navigation", name="views").is_visible()


@pytest.mark.parametrize("view", ["heads", "map", "text", "cross", "compare"])
def test_odd_tokens_are_never_interpreted(watched: Watched, serve: Callable[..., Served], view: str) -> None:
    page = watched.open(serve(r0=records.sentence(records.ODD)).address + f"#view={view}&layer=2&heads=0&query=1&key=1")
    settled(page)
    watched.shoot(page, f"odd-{view}")
    assert page.evaluate("window.broken") is None
    assert page.locator("img, script:not([src$='main.js'])").count() == 0

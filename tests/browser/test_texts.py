"""The text, and two texts side by side."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser import records
from tests.browser.conftest import Watched, settled
from tests.browser.test_map import state_of


def opened(watched: Watched, sentence: str, view: str, layer: int) -> Page:
    page = watched.open(f"{sentence}#view={view}&layer={layer}&heads=3")
    settled(page)
    return page


def test_hovering_a_token_shows_what_it_reads(watched: Watched, sentence: str) -> None:
    page = opened(watched, sentence, "text", 1)
    token = page.get_by_role("option", name="young").first
    token.hover()
    settled(page)
    watched.shoot(page, "text-hover")
    expect(page.get_by_label("strongest weights")).to_contain_text("the")


def test_a_click_fixes_a_token_and_escape_frees_it(watched: Watched, sentence: str) -> None:
    page = opened(watched, sentence, "text", 1)
    page.get_by_role("option", name="young").first.click()
    assert state_of(page)["fixed"] == str(records.WORDS.index("young"))
    page.keyboard.press("Escape")
    assert "fixed" not in state_of(page)


def test_words_are_found(watched: Watched, sentence: str) -> None:
    page = opened(watched, sentence, "text", 1)
    page.get_by_label("find in text").fill("sea")
    expect(page.locator(".pl-text-finding").first).to_contain_text("3")


def test_arrow_keys_move_from_token_to_token(watched: Watched, sentence: str) -> None:
    page = opened(watched, sentence, "text", 1)
    text = page.get_by_role("listbox").first
    text.focus()
    first = text.get_attribute("aria-activedescendant")
    page.keyboard.press("ArrowRight")
    assert text.get_attribute("aria-activedescendant") != first


def test_lines_lead_from_text_to_text(watched: Watched, sentence: str) -> None:
    page = opened(watched, sentence, "cross", 2)
    watched.shoot(page, "cross")
    page.get_by_role("option", name="young").first.click()
    settled(page)
    watched.shoot(page, "cross-fixed")
    assert "fixed" in state_of(page)

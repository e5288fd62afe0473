"""The Heads view: its wall, its scatter and its table, linked, sorted, filtered, by mouse and by keys."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

import pellucid
from pellucid.viewer.viewing.served import Served
from tests.browser import records
from tests.browser.conftest import Watched, settled


def options(page: Page) -> list[str]:
    """What the heads of the wall are called, those in the order that is chosen."""
    found = page.get_by_role("listbox", name="heads").get_by_role("option")
    return [str(found.nth(i).get_attribute("aria-label")) for i in range(found.count())]


def test_a_click_opens_a_head_and_going_back_returns(watched: Watched, sentence: str) -> None:
    page = watched.open(sentence)
    page.get_by_role("option", name="layer 2, head 1").click()
    expect(page).to_have_url(re.compile("view=map&layer=2&heads=1"))
    page.go_back()
    expect(page.get_by_role("listbox", name="heads")).to_be_visible()


def test_shift_and_a_click_choose_several(watched: Watched, sentence: str) -> None:
    page = watched.open(sentence)
    for head in (3, 0):
        page.get_by_role("option", name=f"layer 1, head {head}").click(modifiers=["Shift"])
    expect(page).to_have_url(re.compile("heads=0,3"))
    expect(page.locator("[role=option][aria-selected=true]")).to_have_count(2)
    expect(page.get_by_role("textbox", name="heads")).to_have_value("0,3")


def test_arrow_keys_walk_through_the_wall_and_enter_opens(watched: Watched, sentence: str) -> None:
    page = watched.open(sentence)
    settled(page)
    page.get_by_role("option", name="layer 0, head 1").focus()
    expect(page.locator(".pl-head-card")).to_be_visible()
    for key, reached in (
        ("ArrowRight", "layer 0, head 2"),
        ("ArrowDown", "layer 1, head 2"),
        ("End", "layer 2, head 3"),
    ):
        page.keyboard.press(key)
        expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile(f"^{reached},"))
    page.keyboard.press("Escape")
    expect(page.locator(".pl-head-card")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("heads=3"))


def test_sorting_and_turning_round(watched: Watched, sentence: str) -> None:
    page = watched.open(sentence)
    settled(page)
    page.get_by_label("sorted by").select_option("entropy")
    expect(page).to_have_url(re.compile("sort=entropy"))
    values = [float(name.rsplit(" ", 1)[1]) for name in options(page)]
    assert len(values) == 11
    assert values == sorted(values, reverse=True)
    page.get_by_role("button", name="least first").or_(page.get_by_role("button", name="most first")).click()
    expect(page).to_have_url(re.compile("sort=-entropy"))
    assert [float(name.rsplit(" ", 1)[1]) for name in options(page)] == sorted(values)


def test_self_causal_and_cross_apart(watched: Watched, sentence: str) -> None:
    page = watched.open(sentence)
    settled(page)
    page.get_by_role("group", name="roles").get_by_role("button", name="cross").click()
    expect(page.get_by_role("group", name=re.compile("^layer"))).to_have_count(1)
    expect(page.get_by_role("option", name="layer 2")).to_have_count(4)
    page.get_by_role("group", name="roles").get_by_role("button", name="cross").click()
    expect(page.get_by_role("group", name=re.compile("^layer"))).to_have_count(3)


def test_pointing_at_a_head_marks_its_point(watched: Watched, sentence: str) -> None:
    page = watched.open(sentence)
    settled(page)
    page.get_by_role("option", name="layer 0, head 2").hover()
    expect(page.locator(".pl-scatter-ring")).to_be_visible()
    page.get_by_role("application", name="scatter of heads").focus()
    page.keyboard.press("Home")
    expect(page.locator(".pl-head.pl-marked")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("view=map"))


def test_the_table_says_the_same(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#sort=entropy")
    settled(page)
    order = [name.split(",")[:2] for name in options(page)]
    page.get_by_role("button", name="Table", exact=True).click()
    rows = page.locator(".pl-head-table tbody tr")
    expect(rows).to_have_count(11)
    cells = [rows.nth(i).locator("td").all_inner_texts() for i in range(11)]
    assert [[f"layer {row[0]}", f" head {row[3]}"] for row in cells] == order
    expect(page.locator("th[aria-sort=descending]")).to_have_count(1)


@pytest.mark.parametrize("kind", ["PNG", "SVG"])
def test_a_picture_of_the_wall(watched: Watched, sentence: str, kind: str) -> None:
    page = watched.open(sentence)
    settled(page)
    page.get_by_role("button", name="Save picture").click()
    with page.expect_download() as caught:
        page.get_by_role("button", name=kind).click()
    data = caught.value.path().read_bytes()
    assert data.startswith(b"\x89PNG" if kind == "PNG" else b"<svg")
    if kind == "SVG":
        assert data.count(b"<image") == 11
        assert b"Each map is exact" in data


def test_what_is_missing_is_named(watched: Watched, serve: Callable[..., Served], sentence: str) -> None:
    page = watched.open(sentence)
    page.get_by_role("button", name="1 module was missed").click()
    expect(page.locator(".pl-missed")).to_contain_text("decoder.1: its softmax is hidden")
    empty = pellucid.Record("Nothing")
    empty.complete = False
    page = watched.open(serve(r0=empty).address)
    expect(page.locator(".pl-empty")).to_contain_text("This record holds no layer")
    expect(page.get_by_role("region", name="notices")).to_contain_text("interrupted")


def test_a_lesson_leads_through_views(watched: Watched, serve: Callable[..., Served]) -> None:
    steps = [
        {"title": "All", "text": "Every head.", "state": {"view": "heads", "sink": "with"}},
        {"title": "One", "text": "One head.", "state": {"view": "map", "layer": "1", "heads": "3"}},
    ]
    lesson = {"name": "try", "title": "A try", "warning": "attention is not explanation", "steps": steps}
    page = watched.open(serve(r0=records.sentence(), lesson=lesson).address)
    panel = page.get_by_role("complementary", name="lesson")
    expect(panel).to_contain_text("step 1 of 2")
    expect(panel).to_contain_text("attention is not explanation")
    page.keyboard.press(".")
    expect(panel).to_contain_text("One head.")
    expect(page).to_have_url(re.compile("heads=3"))
    page.keyboard.press(",")
    expect(page).not_to_have_url(re.compile("heads=3"))
    expect(page).to_have_url(re.compile("sink=with"))
    expect(panel.get_by_role("button", name="Back")).to_be_disabled()


def test_help_lists_the_keys_and_escape_closes_it(watched: Watched, sentence: str) -> None:
    page = watched.open(sentence)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Help")).to_contain_text("the next head")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Help")).to_be_hidden()


def test_bookmarks_are_there_again_after_a_reload(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=2&scale=sqrt")
    page.get_by_role("button", name="Bookmarks").click()
    page.get_by_role("textbox", name="name of this view").fill("the <b>one</b>")
    page.get_by_role("button", name="Keep this view").click()
    page = watched.open(sentence)
    page.get_by_role("button", name="Bookmarks").click()
    page.get_by_role("button", name="the <b>one</b>", exact=True).click()
    expect(page).to_have_url(re.compile("scale=sqrt"))
    assert "heads=2" in page.url

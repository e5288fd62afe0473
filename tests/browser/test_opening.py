"""The page opens, asks nobody but its server, and shows whatever tokens hold without obeying it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

import pellucid
from pellucid.viewer.viewing.served import Served
from tests.browser import records
from tests.browser.conftest import Watched, settled

VIEWS = ("heads", "map", "text", "cross", "compare")
SIZES = ((360, 640), (1280, 800), (2560, 1440))


def test_it_opens_on_the_heads(watched: Watched, sentence: str) -> None:
    page = watched.open(sentence)
    settled(page)
    watched.shoot(page, "heads")
    tabs = page.get_by_role("navigation", name="views")
    expect(tabs.get_by_role("button")).to_have_text(["Heads", "Map", "Text", "Two texts", "Compare"])
    expect(page.get_by_role("listbox", name="heads").get_by_role("option")).to_have_count(11)
    expect(page.get_by_text("decoder.1")).to_be_visible()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_view_fits_its_window(watched: Watched, sentence: str, view: str, width: int, height: int) -> None:
    page = watched.open(f"{sentence}#view={view}&layer=2&heads=0", width=width, height=height)
    settled(page)
    watched.shoot(page, f"{view}-{width}")
    beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert beyond == 0


@pytest.mark.parametrize("width", [640, 768, 1024, 1200, 1400])
def test_a_long_name_leaves_the_pickers_in_one_line(watched: Watched, serve: Callable[..., Served], width: int) -> None:
    address = serve(**{"a model of some layers that was trained for long": records.sentence()}).address
    page = watched.open(f"{address}#view=map&layer=2&heads=0", width=width)
    settled(page)
    boxes = [page.locator(name).first.bounding_box() for name in (".pl-record", ".pl-layer-field", ".pl-heads-field")]
    middles = {round((box["y"] + box["height"] / 2) / 8) for box in boxes if box is not None}
    assert len(middles) == 1


@pytest.mark.parametrize("word", ["constructor", "__proto__", "-1", "", "NaN", "99999999999999999999", "<script>"])
@pytest.mark.parametrize("view", VIEWS)
def test_no_word_of_an_address_breaks_a_view(watched: Watched, sentence: str, view: str, word: str) -> None:
    page = watched.open(f"{sentence}#view={view}&layer=2")
    names = (
        "view record layer heads over pool sequence q k scale range colours theme strips query key fixed direction sink"
    )
    names += " direction sink roles kinds sort x y size b.layer b.heads b.sequence difference step cells thumb form"
    for name in names.split():
        page.evaluate("hash => { location.hash = hash }", f"view={view}&layer=2&{name}={word}")
        page.wait_for_timeout(30)
    page.evaluate("hash => { location.hash = hash }", f"view={view}&layer=2")
    settled(page)


@pytest.mark.parametrize("view", VIEWS)
def test_it_is_dark_where_the_system_is(dark: Watched, sentence: str, view: str) -> None:
    page = dark.open(f"{sentence}#view={view}&layer=2&heads=0")
    settled(page)
    dark.shoot(page, f"{view}-dark")
    assert _lightness(page) < 0.25
    page.get_by_label("light or dark").select_option("light")
    assert _lightness(page) > 0.75


def _lightness(page) -> float:
    colour = page.evaluate("getComputedStyle(document.querySelector('.pellucid')).backgroundColor")
    return sum(int(part) for part in colour.strip("rgb()").split(",")[:3]) / 765


@pytest.mark.parametrize("view", VIEWS)
def test_odd_tokens_are_never_interpreted(watched: Watched, serve: Callable[..., Served], view: str) -> None:
    page = watched.open(serve(r0=records.sentence(records.ODD)).address + f"#view={view}&layer=2&heads=0&query=1&key=1")
    settled(page)
    watched.shoot(page, f"odd-{view}")
    assert page.evaluate("window.broken") is None
    assert page.locator("img, iframe, script:not([src$='main.js'])").count() == 0


@pytest.mark.parametrize("name", ["<script>window.broken = 1</script>", "a" * 5000, "\ud800", "\u202eabc"])
def test_odd_names_are_never_interpreted(watched: Watched, serve: Callable[..., Served], name: str) -> None:
    record = records.sentence()
    record.model = name
    record.notes = [name]
    record.missed = [pellucid.Missed(name, name)]
    page = watched.open(serve(r0=record).address)
    settled(page)
    assert page.evaluate("window.broken") is None


def test_a_record_without_layers_says_so(watched: Watched, serve: Callable[..., Served]) -> None:
    page = watched.open(serve(r0=pellucid.Record("Empty")).address)
    settled(page)
    watched.shoot(page, "empty")
    expect(page.locator(".pl-view")).to_contain_text("layer")


def test_one_token_is_a_map(watched: Watched, serve: Callable[..., Served]) -> None:
    one = records.layer("one", 1, 1, 1)
    record = pellucid.Record("One", {"one": one}, tokens=[["only"]])
    for view in ("heads", "map", "text"):
        page = watched.open(serve(r0=record).address + f"#view={view}&layer=0&heads=0")
        settled(page)


def test_several_records_lie_side_by_side(watched: Watched, serve: Callable[..., Served]) -> None:
    other = records.sentence()
    other.model = "Another"
    page = watched.open(serve(r0=records.sentence(), r1=other).address)
    settled(page)
    picker = page.get_by_role("combobox", name="record")
    expect(picker.locator("option")).to_have_count(2)
    picker.select_option(index=1)
    expect(page).to_have_url(re.compile("record=r1"))

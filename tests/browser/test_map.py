"""The map is zoomed, read, searched and kept as its user wants it."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

import pellucid
from pellucid.viewer.viewing.served import Served
from tests.browser import records
from tests.browser.conftest import Watched, settled

UNDER_THE_CROSSHAIR = ".pl-map-card:visible, .pl-map-aside:visible"
INSIDE = {"x": 200, "y": 200}  # of a map, however little of the width its square takes


def map_of(page: Page) -> Locator:
    return page.get_by_role("application").first


def state_of(page: Page) -> dict[str, str]:
    """The words of the address, once the page has written them."""
    page.wait_for_timeout(350)
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


def cells_of(page: Page) -> bytes:
    """The map's cells, without what the focus and the pointer add."""
    page.mouse.move(2, 2)
    page.evaluate("document.activeElement?.blur()")
    return page.locator(".pl-map-area").first.screenshot()


def visible(page: Page, axis: str = "q") -> float:
    """How many tokens are visible along an axis; 0 for all."""
    found = state_of(page).get(axis)
    if found is None:
        return 0.0
    start, stop = map(float, found.split(":"))
    return stop - start


@pytest.fixture
def opened(watched: Watched, sentence: str) -> Page:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=3")
    settled(page)
    return page


def test_the_wheel_zooms_about_the_pointer(opened: Page) -> None:
    opened.locator(".pl-map-area").hover(position=INSIDE)
    opened.mouse.wheel(0, -400)
    settled(opened)
    once = visible(opened)
    assert 0 < once < len(records.WORDS)
    opened.mouse.wheel(0, -400)
    settled(opened)
    assert visible(opened) < once


def test_shift_and_the_wheel_zoom_the_keys_alone(opened: Page) -> None:
    opened.locator(".pl-map-area").hover(position=INSIDE)
    opened.keyboard.down("Shift")
    for _ in range(4):
        opened.mouse.wheel(0, -400)
        settled(opened)
    opened.keyboard.up("Shift")
    settled(opened)
    assert visible(opened, "k") > 0
    assert visible(opened, "q") in (0, len(records.WORDS))


def test_keys_zoom_move_and_show_the_whole(opened: Page) -> None:
    map_of(opened).focus()
    opened.keyboard.press("+")
    opened.keyboard.press("+")
    settled(opened)
    near = state_of(opened)
    assert visible(opened) > 0
    opened.keyboard.press("ArrowDown")
    settled(opened)
    assert state_of(opened)["q"] != near["q"]
    opened.keyboard.press("0")
    settled(opened)
    assert visible(opened) in (0, len(records.WORDS))


def test_dragging_moves_the_map(opened: Page) -> None:
    map_of(opened).focus()
    for _ in range(3):
        opened.keyboard.press("+")
    settled(opened)
    before = state_of(opened)["q"]
    box = map_of(opened).bounding_box()
    assert box is not None
    x, y = box["x"] + 400, box["y"] + 300
    opened.mouse.move(x, y)
    opened.mouse.down()
    opened.mouse.move(x - 60, y - 60, steps=5)
    opened.mouse.up()
    settled(opened)
    assert state_of(opened)["q"] != before


def test_two_fingers_zoom_about_what_lies_between_them(opened: Page) -> None:
    box = map_of(opened).bounding_box()
    assert box is not None
    x, y = box["x"] + 500, box["y"] + 350
    session = opened.context.new_cdp_session(opened)

    def touch(kind: str, *apart: int) -> None:
        points = [{"x": x + sign * by, "y": y + sign * by, "id": sign + 1} for by in apart for sign in (-1, 1)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 40)
    for apart in range(50, 130, 10):
        touch("touchMove", apart)
    touch("touchEnd")
    settled(opened)
    first, last = (float(end) for end in state_of(opened)["q"].split(":"))
    assert 0 < first < last < len(records.WORDS)


def test_the_crosshair_reads_the_weight_out(opened: Page, watched: Watched) -> None:
    record = records.sentence()
    weight = record["decoder.0.self"].weights(queries=5, keys=4, heads=3).item()
    opened.evaluate("location.hash += '&query=5&key=4'")
    opened.reload()
    settled(opened)
    watched.shoot(opened, "map-crosshair")
    card = opened.locator(UNDER_THE_CROSSHAIR).first
    expect(card).to_contain_text(records.WORDS[5])
    expect(card).to_contain_text(records.WORDS[4])
    shown = re.search(r"weight ([\d.e-]+)", card.inner_text())
    assert shown is not None
    assert float(shown[1]) == pytest.approx(weight, rel=0.01)
    expect(card).to_contain_text("1st")
    map_of(opened).focus()
    opened.keyboard.press("Shift+ArrowLeft")
    expect(opened.get_by_role("status").last).to_have_text(
        re.compile(r"query 5 .*key 3 .*weight .*of the 6 keys that it reads")
    )


def test_hovering_names_both_tokens_and_a_click_fixes_them(opened: Page) -> None:
    box = map_of(opened).bounding_box()
    assert box is not None
    opened.mouse.move(box["x"] + 300, box["y"] + 400)
    card = opened.locator(UNDER_THE_CROSSHAIR).first
    expect(card).to_contain_text("query")
    opened.mouse.click(box["x"] + 300, box["y"] + 400)
    state = state_of(opened)
    assert {"query", "key"} <= state.keys()
    opened.keyboard.press("Escape")
    assert "query" not in state_of(opened)


def test_beside_a_square_map_stands_what_its_query_reads_most(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=3&query=5&key=4", width=1500)
    settled(page)
    aside = page.get_by_role("complementary", name="under the crosshair")
    strongest = records.sentence()["decoder.0.self"].weights(queries=5, heads=3)[0, 0, 0].topk(2)
    items = aside.get_by_role("listitem")
    for place, key, weight in zip((0, 1), strongest.indices.tolist(), strongest.values.tolist(), strict=True):
        words = items.nth(place).inner_text().split()
        assert words[:2] == [records.WORDS[key], str(key)]
        assert float(words[2]) == pytest.approx(weight, rel=0.01)
    items.nth(1).get_by_role("button").click()
    assert state_of(page)["key"] == str(strongest.indices[1].item())
    expect(page.locator(".pl-map-card")).to_be_hidden()


def test_beside_a_map_of_all_the_width_nothing_stands(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=3&query=5&key=4&cells=fill", width=1500)
    settled(page)
    expect(page.locator(".pl-map-card")).to_be_visible()
    expect(page.locator(".pl-map-aside")).to_be_hidden()


def test_the_whole_map_is_in_sight_on_a_low_screen(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=3", width=390, height=520)
    settled(page)
    area, status = (page.locator(name).bounding_box() for name in (".pl-map-area", ".pl-map-status"))
    assert area is not None
    assert status is not None
    assert area["y"] + area["height"] <= status["y"]


def test_a_token_is_found_by_its_text(opened: Page) -> None:
    field = opened.get_by_label("go to a token or a number")
    field.fill("young")
    field.press("Enter")
    settled(opened)
    assert state_of(opened)["query"] == str(records.WORDS.index("young"))


def test_what_is_gone_to_is_told_where_the_pointer_rests_on_the_map(opened: Page) -> None:
    """And what has moved away from under the pointer is not."""
    opened.locator(".pl-map-area").click(position=INSIDE)
    before = state_of(opened)
    field = opened.get_by_label("go to a token or a number")
    field.fill("young")
    field.press("Enter")
    settled(opened)
    young = records.WORDS.index("young")
    assert before["query"] != str(young)
    expect(opened.locator(UNDER_THE_CROSSHAIR).first).to_contain_text(f"query {young} young")
    opened.locator(".pl-map-area").hover(position={"x": 100, "y": 100})
    card = opened.locator(UNDER_THE_CROSSHAIR).first
    told = card.inner_text()
    map_of(opened).focus()
    opened.keyboard.press("+")
    opened.keyboard.press("+")
    settled(opened)
    assert card.inner_text().splitlines()[0] != told.splitlines()[0]


def test_what_all_read_stands_beside_the_map_until_one_is_pointed_at(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=3", width=1500)
    settled(page)
    received = records.sentence()["decoder.0.self"].received[0, 3]
    items = page.get_by_role("complementary", name="under the crosshair").get_by_role("listitem")
    most = received.topk(3)
    for place, key, weight in zip(range(3), most.indices.tolist(), most.values.tolist(), strict=True):
        words = items.nth(place).inner_text().split()
        assert words[:2] == [records.WORDS[key], str(key)]
        assert float(words[2]) == pytest.approx(weight, rel=0.01)
    items.first.get_by_role("button").click()
    assert state_of(page)["key"] == str(most.indices[0].item())
    card = page.locator(UNDER_THE_CROSSHAIR).first
    shown = re.search(r"the key: received ([\d.]+) tokens", card.inner_text())
    assert shown is not None
    assert float(shown[1]) == pytest.approx(most.values[0].item(), rel=0.01)


@pytest.mark.parametrize("width", [390, 1280])
def test_what_opens_is_not_cut_off(watched: Watched, sentence: str, width: int) -> None:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=3", width=width)
    settled(page)
    page.evaluate("document.querySelector('.pl-map-tool-more').open = true")
    for button, panel in (
        ("summary:text-is('Strips')", ".pl-map-menu-list"),
        ("[title='choose heads']", ".pl-menu-panel"),
    ):
        page.locator(button).click()
        box = page.locator(f"{panel}:visible").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        page.keyboard.press("Escape")


def test_the_strongest_is_found(opened: Page) -> None:
    weights = records.sentence()["decoder.0.self"].weights(heads=3)[0, 0]
    opened.get_by_role("button", name="strongest").click()
    settled(opened)
    state = state_of(opened)
    assert weights[int(state["query"]), int(state["key"])].item() == pytest.approx(weights.max().item(), rel=1e-4)


def test_colours_scale_and_range_are_chosen_without_asking_again(opened: Page, watched: Watched) -> None:
    before = map_of(opened).screenshot()
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.get_by_role("combobox", name="Colours").select_option("magma")
    settled(opened)
    assert map_of(opened).screenshot() != before
    magma = map_of(opened).screenshot()
    opened.get_by_role("combobox", name="Scale").select_option("linear")
    settled(opened)
    assert map_of(opened).screenshot() != magma
    watched.shoot(opened, "map-magma")
    assert state_of(opened) | {"colours": "magma", "scale": "linear"} == state_of(opened)
    assert asked == []


def test_the_address_restores_the_view(watched: Watched, opened: Page) -> None:
    map_of(opened).focus()
    opened.keyboard.press("+")
    opened.keyboard.press("+")
    opened.get_by_role("combobox", name="Colours").select_option("cividis")
    settled(opened)
    state_of(opened)
    other = watched.open(opened.url)
    settled(other)
    assert state_of(other) == state_of(opened)
    one, two = (np.asarray(Image.open(BytesIO(cells_of(page))).convert("L"), float) for page in (opened, other))
    assert np.abs(one - two).mean() < 1  # the address has its range in some digits


def test_back_and_forward(opened: Page) -> None:
    views = opened.get_by_role("navigation", name="views")
    views.get_by_role("button", name="Text", exact=True).click()
    expect(opened.locator(".pl-text")).to_be_visible()
    opened.go_back()
    expect(opened.locator(".pl-map")).to_be_visible()
    opened.go_forward()
    expect(opened.locator(".pl-text")).to_be_visible()


@pytest.mark.parametrize("kind", ["PNG", "SVG"])
@pytest.mark.parametrize("view", ["map", "compare", "heads", "text", "cross"])
def test_a_picture_is_saved(watched: Watched, sentence: str, view: str, kind: str, tmp_path: Path) -> None:
    page = watched.open(f"{sentence}#view={view}&layer=2&heads=0")
    settled(page)
    page.get_by_role("button", name="Save picture").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile(kind)).first.click()
    path = tmp_path / f"picture.{kind.lower()}"
    download.value.save_as(path)
    data = path.read_bytes()
    if watched.shots is not None:
        (watched.shots / f"picture-{view}.{kind.lower()}").write_bytes(data)
    if kind == "PNG":
        assert data.startswith(b"\x89PNG")
    else:
        text = data.decode("utf-8")
        assert text.lstrip().startswith(("<svg", "<?xml"))
        assert "<text" in text
        assert "<script" not in text
    assert len(data) > 1000


def test_compare_shows_two_and_their_difference(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=compare&layer=1&heads=0&b.layer=1&b.heads=3")
    settled(page)
    watched.shoot(page, "compare")
    panes = page.get_by_role("application")
    expect(panes).to_have_count(3)
    panes.first.hover()
    page.mouse.wheel(0, -400)
    settled(page)
    assert visible(page) > 0


def test_it_grows_and_shrinks_with_the_window(opened: Page) -> None:
    wide = map_of(opened).bounding_box()
    opened.set_viewport_size({"width": 700, "height": 500})
    settled(opened)
    narrow = map_of(opened).bounding_box()
    assert wide is not None
    assert narrow is not None
    assert narrow["width"] < wide["width"]


def test_a_long_map_is_refined_while_it_is_zoomed(watched: Watched, serve: Callable[..., Served]) -> None:
    page = watched.open(serve(r0=records.long()).address + "#view=map&layer=0&heads=0")
    settled(page)
    watched.shoot(page, "long-whole")
    status = page.locator(".pl-map").get_by_text("exact").last
    page.locator(".pl-map-area").hover(position=INSIDE)
    for _ in range(12):
        page.mouse.wheel(0, -600)
        page.wait_for_timeout(60)
    settled(page)
    watched.shoot(page, "long-near")
    expect(status).to_contain_text("one query and one key")
    assert 0 < visible(page) < 100


def test_the_line_of_python_gives_what_is_on_screen(opened: Page) -> None:
    map_of(opened).focus()
    opened.keyboard.press("+")
    settled(opened)
    opened.get_by_role("button", name="Copy").click()
    field = opened.get_by_label(re.compile("^Python"))
    expect(field).to_have_attribute("aria-busy", "false")
    line = field.input_value()
    assert line.startswith("# record: what .view() was called on")
    found = eval(line, {"record": records.sentence()})
    assert 0 < found.shape[-2] <= len(records.WORDS)


@pytest.mark.parametrize("view", ["heads", "map", "text", "cross", "compare"])
def test_what_is_copied_runs_as_it_is_pasted(
    watched: Watched, serve: Callable[..., Served], view: str, tmp_path: Path
) -> None:
    paths = [records.sentence().save(tmp_path / name) for name in ("one.attn", "other.attn")]
    one, other = map(pellucid.open_record, paths)
    page = watched.open(f"{serve(r0=one, r1=other).address}#view={view}&layer=2&heads=0&b.record=r1&b.heads=1&fixed=1")
    settled(page)
    page.get_by_role("button", name="Copy").click()
    field = page.get_by_label(re.compile("^Python"))
    expect(field).to_have_attribute("aria-busy", "false")
    text = field.input_value()
    names: dict[str, Any] = {}
    exec(text, names)
    assert names["record"].path == one.path
    if view == "compare":
        assert names["other"].path == other.path
        assert not names["a"].equal(names["b"])


@pytest.mark.parametrize("width", [1500, 800])
@pytest.mark.parametrize(("axis", "index"), [("query", 5), ("key", 4)])
def test_a_query_alone_or_a_key_alone_says_what_is_strongest(
    watched: Watched, sentence: str, axis: str, index: int, width: int
) -> None:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=3&{axis}={index}", width=width)
    settled(page)
    weights = records.sentence()["decoder.0.self"].weights(heads=3)[0, 0]
    line = weights[index] if axis == "query" else weights[:, index]
    shown = page.locator(UNDER_THE_CROSSHAIR).first
    expect(shown).to_contain_text(f"{axis} {index} {records.WORDS[index]}")
    expect(shown).to_contain_text("reads most" if axis == "query" else re.compile("who reads|is read most by"))
    strongest = int(line.argmax())
    names = [records.WORDS[strongest], str(strongest)]
    expect(shown).to_contain_text("".join(names) if width > 1000 else " ".join(reversed(names)))
    watched.shoot(page, f"map-{axis}-alone-{width}")
    if width > 1000:
        page.get_by_role("complementary", name="under the crosshair").get_by_role("button").first.click()
        other = "key" if axis == "query" else "query"
        assert state_of(page)[other] == str(strongest)
        assert state_of(page)[axis] == str(index)


def test_a_row_says_which_token_names_it(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=3&query=5&key=4")
    settled(page)
    words = records.WORDS
    expect(page.locator(UNDER_THE_CROSSHAIR).first).to_contain_text(f"query 5 {words[5]}, before {words[6]}")
    expect(page.locator(".pl-map-status")).to_contain_text("named by the token just read")
    both = watched.open(f"{sentence}#view=map&layer=0&heads=0&query=5&key=4")
    settled(both)
    expect(both.locator(".pl-map-status")).not_to_contain_text("named by")
    expect(both.locator(UNDER_THE_CROSSHAIR).first).not_to_contain_text("before")

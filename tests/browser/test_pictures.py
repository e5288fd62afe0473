"""What is drawn, on screen and in saved pictures: what it is is said whole, and nothing covers anything else."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import pellucid
from pellucid.viewer.viewing.served import Served
from tests.browser import records
from tests.browser.conftest import Watched, settled

VIEWS = ("map", "compare", "heads", "text", "cross")
LONG = "model.language_model.encoder.decoder.block.12.layer.1.EncDecAttention.self_attention"

_BOXES = """() => [...document.querySelectorAll('text, rect, image, path, polyline')].map((one) => {
  const { left: x, top: y, width, height } = one.getBoundingClientRect();
  const { fill, stroke } = Object.fromEntries(['fill', 'stroke'].map((name) => [name, one.getAttribute(name)]));
  return { tag: one.tagName, text: one.textContent, x, y, width, height, fill, stroke };
})"""


def long_named() -> pellucid.Record:
    """Two heads of cross-attention in a layer whose name is wider than a phone."""
    layer = records.layer(LONG, 2, 5, 9, role="cross")
    return pellucid.Record("Tiny", {LONG: layer}, tokens=[records.WORDS[:5]], source_tokens=[records.WORDS[5:14]])


def save(page: Page, kind: str = "SVG") -> tuple[str, bytes]:
    """The name and the bytes of the picture of what is on screen."""
    if page.locator(".pl-more").is_visible():
        page.locator(".pl-more").click()
    page.get_by_role("button", name="Save picture").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=kind, exact=True).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def drawn(watched: Watched, svg: bytes) -> tuple[list[dict[str, Any]], float, float]:
    """The parts of an SVG with the room that each takes; its width and height."""
    text = svg.decode("utf-8")
    page = watched.context.new_page()
    page.set_content(f"<style>body {{ margin: 0 }}</style>{text[text.index('<svg') :]}")
    parts = page.evaluate(_BOXES)
    width, height = page.evaluate(
        "(() => { const b = document.querySelector('svg').getBoundingClientRect(); return [b.width, b.height] })()"
    )
    page.close()
    return parts, width, height


def texts_of(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for part in parts if part["tag"] == "text" and part["text"].strip()]


def overlap(a: dict[str, Any], b: dict[str, Any], by: float = 0.0) -> bool:
    across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
    down = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
    return bool(across > by and down > by)


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("view", VIEWS)
def test_a_picture_says_all_of_what_it_is_of(
    watched: Watched, serve: Callable[..., Served], view: str, width: int
) -> None:
    page = watched.open(serve(r0=long_named()).address + f"#view={view}&layer=0&heads=1", width=width, height=800)
    settled(page)
    name, svg = save(page)
    assert re.fullmatch(r"Tiny-[\w.-]*(map|compare|heads|text|two-texts)\.svg", name)
    assert "--" not in name
    parts, wide, high = drawn(watched, svg)
    said = " ".join(part["text"] for part in texts_of(parts))
    assert "Tiny" in said
    if view != "heads":
        assert LONG in said.replace(" ", "")
        assert "head 1" in said
        assert "Attention is not explanation." in said
        assert "…" not in said
    for part in texts_of(parts):
        assert part["x"] > -1, part
        assert part["x"] + part["width"] < wide + 1, part
        assert part["y"] > -1, part
        assert part["y"] + part["height"] < high + 1, part


def test_a_map_names_its_axes_and_strips(watched: Watched, sentence: str) -> None:
    for width in (390, 1400):
        page = watched.open(f"{sentence}#view=map&layer=1&heads=3", width=width, height=800)
        settled(page)
        words = [part["text"] for part in texts_of(drawn(watched, save(page)[1])[0])]
        assert {"queries", "keys", "entropy", "received"} <= set(words)
        assert not [word for word in words if "…" in word]


def test_two_texts_have_headings_and_a_legend_and_nothing_below(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=cross&layer=2&heads=0", width=1400, height=1400)
    settled(page)
    parts, _, high = drawn(watched, save(page)[1])
    words = texts_of(parts)
    said = [part["text"] for part in words]
    assert {"Queries (target): what reads", "Keys (source): what is read", "weight 0.05"} <= set(said)
    rows = sorted({round(part["y"] + part["height"] / 2) for part in words} | {round(high)})
    assert max(after - before for before, after in pairwise(rows)) < 60


@pytest.mark.parametrize("place", ["layer=2&heads=0", "layer=1&heads=3", "layer=1&heads=3&q=2:9&k=3:12"])
def test_a_crosshair_covers_no_label_in_part(watched: Watched, sentence: str, place: str) -> None:
    page = watched.open(f"{sentence}#view=map&{place}&query=5&key=6", width=800, height=700)
    settled(page)
    mark = page.evaluate("getComputedStyle(document.querySelector('.pellucid')).getPropertyValue('--pl-mark').trim()")
    parts = drawn(watched, save(page)[1])[0]
    frames = [part for part in parts if part["tag"] == "rect" and part["stroke"] == mark]
    assert len(frames) == 2
    for frame in frames:
        within = [part["text"] for part in texts_of(parts) if overlap(part, frame, by=2)]
        assert len(within) == 1, within


def test_numbers_stay_within_the_map(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=map&layer=2&heads=0&q=1.45:6.55&k=0.45:7.55&cells=fill")
    settled(page)
    parts = drawn(watched, save(page)[1])[0]
    area = next(part for part in parts if part["tag"] == "image")
    numbers = [part for part in texts_of(parts) if part["fill"] in ("#000", "#fff")]
    assert len(numbers) > 20
    for part in numbers:
        assert area["x"] - 1 < part["x"]
        assert part["x"] + part["width"] < area["x"] + area["width"] + 1
        middle = part["y"] + part["height"] / 2
        assert area["y"] + 5 < middle < area["y"] + area["height"] - 5


def test_only_the_kinds_that_are_drawn_are_explained(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=heads&roles=cross")
    settled(page)
    cells = page.locator(".pl-head")
    kinds = {label.split(", ")[2] for label in cells.evaluate_all("all => all.map(one => one.ariaLabel)")}
    words = [part["text"] for part in texts_of(drawn(watched, save(page)[1])[0])]
    found = {word.rpartition(" ")[0] for word in words if re.fullmatch(r"[a-z][a-z ]+ \d+", word)}
    assert found == kinds
    assert any("only cross" in word for word in words)


def test_kinds_and_roles_hide_what_is_not_chosen(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=heads")
    settled(page)
    heads = page.locator(".pl-head")
    expect(heads).to_have_count(11)
    for group in ("roles", "kinds"):
        chip = page.get_by_role("group", name=group).get_by_role("button").first
        count = int(chip.inner_text().split()[-1])
        assert "show only" in (chip.get_attribute("title") or "")
        chip.click()
        expect(heads).to_have_count(count)
        chip.click()
        expect(heads).to_have_count(11)


def test_the_difference_has_a_bar_with_none_in_its_middle(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=compare&layer=1&heads=0&b.heads=3")
    settled(page)
    bar = page.get_by_role("img", name=re.compile("^colours of differences of weights from −"))
    expect(bar).to_be_visible()
    ends = re.search(r"from −(\S+) to \+(\S+)", bar.get_attribute("aria-label") or "")
    assert ends is not None
    assert ends[1] == ends[2]
    expect(page.get_by_role("img", name=re.compile("^colours of weights from"))).to_be_visible()
    parts = drawn(watched, save(page)[1])[0]
    low, none, high = (
        next(part for part in texts_of(parts) if part["text"] == text) for text in (f"−{ends[1]}", "0", f"+{ends[1]}")
    )
    middle = none["x"] + none["width"] / 2
    assert abs(middle - (low["x"] + high["x"] + high["width"]) / 2) < 3
    page.get_by_label("the difference alone").check()
    settled(page)
    expect(page.get_by_role("img", name=re.compile("^colours of weights from"))).to_be_hidden()
    expect(bar).to_be_visible()


@pytest.mark.parametrize(
    "state",
    [
        "view=compare&layer=1&heads=0&b.layer=2&b.heads=1&q=3:9&k=2:7",
        "view=map&layer=2&heads=0&q=3:9&k=2:7",
        "view=text&layer=1&heads=0",
        "view=cross&layer=2&heads=0&fixed=3",
        "view=heads&sort=entropy",
    ],
)
def test_python_is_the_same_at_once_and_later_and_shown_from_its_start(
    watched: Watched, sentence: str, state: str
) -> None:
    page = watched.open(f"{sentence}#{state}", width=900)
    said = []
    for _ in range(2):
        page.get_by_role("button", name="Copy", exact=True).first.click()
        field = page.get_by_label(re.compile("^Python"))
        expect(field).to_have_attribute("aria-busy", "false")
        said.append(field.input_value())
        assert field.evaluate("one => [one.scrollLeft, one.scrollTop, one.selectionStart]") == [0, 0, 0]
        page.keyboard.press("Escape")
        settled(page)
    assert said[0] == said[1]
    assert "record" in said[0]


def test_text_and_map_rank_a_weight_alike(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=map&layer=1&heads=3&query=5&key=2", width=1500)
    settled(page)
    rank = re.compile(r"\d+(st|nd|rd|th) of the \d+ keys that it reads")
    card = page.locator(".pl-map-card:visible, .pl-map-aside:visible").first
    expect(card).to_contain_text(rank)
    on_map = rank.search(card.inner_text())
    page.goto(f"{sentence}#view=text&layer=1&heads=3&fixed=5")
    settled(page)
    page.locator(".pl-token").nth(2).hover()
    under = page.locator(".pl-text-under")
    expect(under).to_contain_text(rank)
    in_text = rank.search(under.inner_text())
    assert on_map is not None
    assert in_text is not None
    assert in_text[0] == on_map[0]
    assert in_text[0].endswith("of the 6 keys that it reads")

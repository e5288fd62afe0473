"""What tokens read, in the text, between two texts, and on pictures: the numbers shown are the record's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect
from torch import Tensor

import pellucid
from pellucid.viewer.viewing.served import Served
from tests.browser import records
from tests.browser.conftest import Watched, settled
from tests.browser.test_map import state_of

HEAD = 1


def opened(watched: Watched, served: Served, state: str, **size: int) -> Page:
    page = watched.open(f"{served.address}#{state}", **size)
    settled(page)
    return page


def listed(page: Page) -> list[tuple[int, float]]:
    """Positions and weights of the first list of strongest weights."""
    items = page.get_by_label("strongest weights").get_by_role("list").first.get_by_role("button").all()
    texts = [item.locator("span, bdi").all_inner_texts() for item in items]
    return [(int(position), float(weight)) for *_, position, weight in texts]


def check_list(found: list[tuple[int, float]], weights: Tensor) -> None:
    """Every weight listed is that of its position, and they are the largest there are."""
    assert len(found) == min(12, int((weights > 0).sum()))
    expected = weights.sort(descending=True).values
    for (position, weight), largest in zip(found, expected, strict=False):
        assert weight == pytest.approx(weights[position].item(), rel=0.06)
        assert weight == pytest.approx(largest.item(), rel=0.06)


@pytest.mark.parametrize(
    ("fixed", "direction", "several"), [([9], "reads", ""), ([9, 12], "reads", "mean"), ([4], "read", "")]
)
def test_the_strongest_are_the_records(
    watched: Watched, serve: Callable[..., Served], fixed, direction, several
) -> None:
    record = records.sentence()
    state = f"view=text&layer=1&heads={HEAD}&direction={direction}&several={several}&fixed={','.join(map(str, fixed))}"
    page = opened(watched, serve(r0=record), state)
    axis = "queries" if direction == "reads" else "keys"
    weights = record["decoder.0.self"].weights(heads=[HEAD], **{axis: fixed})[0, 0]
    check_list(listed(page), weights.mean(0) if axis == "queries" else weights.mean(1))


def test_shift_adds_to_what_is_fixed(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=text&layer=1&heads=0")
    settled(page)
    page.get_by_role("option", name="man").first.click()
    page.get_by_role("option", name="young").first.click(modifiers=["Shift"])
    settled(page)
    first, second = records.WORDS.index("man"), records.WORDS.index("young")
    assert state_of(page)["fixed"] == f"{first},{second}"
    expect(page.get_by_role("listbox").get_by_role("option", selected=True)).to_have_count(2)


def test_of_a_long_text_only_what_is_in_sight_is_drawn(watched: Watched, serve: Callable[..., Served]) -> None:
    page = opened(watched, serve(r0=records.long(20_000)), "view=text&heads=0")
    text = page.get_by_role("listbox")
    text.focus()
    page.keyboard.press("End")
    settled(page)
    expect(page.locator(".pl-text-under")).to_contain_text("(19999)")
    expect(page.get_by_role("option", name="w19998", exact=True)).to_be_in_viewport()
    assert page.get_by_role("listbox").get_by_role("option").count() < 3000
    page.get_by_label("find in text").fill("w6 the")
    page.get_by_label("find in text").press("Enter")
    assert state_of(page)["find"] == "w6 the"
    expect(page.get_by_role("option", name="w6", exact=True)).to_be_in_viewport()
    page.get_by_label("go to a position").fill("12345")
    page.get_by_label("go to a position").press("Enter")
    settled(page)
    expect(page.get_by_role("option", name="w12345", exact=True)).to_be_in_viewport()
    watched.shoot(page, "text-long")


def generated() -> pellucid.Record:
    """A prompt of 12 tokens and 8 of one call each; the last token was never read."""
    one = replace(records.layer("decoder.0", 2, 20, 20, causal=True), calls=9, call_rows=[[12, 1], [1, 8]])
    return pellucid.Record("Tiny", {one.name: one}, tokens=[[*records.WORDS[:20], "end"]])


def test_the_steps_of_a_generation(watched: Watched, serve: Callable[..., Served]) -> None:
    page = opened(watched, serve(r0=generated()), "view=text&heads=0")
    steps = page.get_by_role("slider", name="step of the generation")
    expect(page.locator(".pl-steps")).to_contain_text("step 1 of 9")
    steps.focus()
    page.keyboard.press("ArrowRight")
    settled(page)
    assert state_of(page)["fixed"] == "12"
    page.keyboard.press("End")
    settled(page)
    assert state_of(page)["fixed"] == "19"
    expect(page.locator(".pl-steps")).to_contain_text("step 9 of 9")
    expect(page.locator(".pl-steps")).to_contain_text("‘end’ comes next")
    expect(page.locator(".pl-made")).to_have_count(8)
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(1000)
    page.get_by_role("button", name="Pause").click()
    assert 11 < int(state_of(page)["fixed"]) < 19
    watched.shoot(page, "text-generation")


def pictured() -> pellucid.Record:
    """A token that stands apart, a picture of 3 x 4 patches, and four words."""
    one = records.layer("layers.0", 2, 17, 17)
    tokens = [["[CLS]", *["<image>"] * 12, " what", " is", " it", " ?"]]
    record = pellucid.Record("Tiny", {one.name: one}, tokens=tokens)
    picture = torch.arange(30 * 40 * 3).view(30, 40, 3).to(torch.uint8)
    record.images = [pellucid.Image(3, 4, slice(1, 13), picture=picture, name="a cat")]
    return record


def test_patches_over_the_picture(watched: Watched, serve: Callable[..., Served]) -> None:
    record = pictured()
    page = opened(watched, serve(r0=record), f"view=image&heads={HEAD}&fixed=14")
    weights = record["layers.0"].weights(heads=[HEAD], queries=[14])[0, 0, 0]
    check_list(listed(page), weights)
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_text(["[CLS]", " what", " is", " it", " ?"])
    grid = page.get_by_role("application", name="a cat")
    box = grid.bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(4 / 3, rel=0.02)
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
    expect(page.locator(".pl-text-under")).to_contain_text("patch 1,3 (8)")
    page.mouse.down()
    page.mouse.up()
    settled(page)
    assert state_of(page)["fixed"] == "8"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert state_of(page)["fixed"] == "7"
    watched.shoot(page, "image")


def test_patches_are_coloured_by_their_weights(watched: Watched, serve: Callable[..., Served]) -> None:
    """Without a picture the grid shows the map's own colours, the strongest patch the brightest."""
    record = pictured()
    record.images = [replace(record.images[0], picture=None)]
    page = opened(watched, serve(r0=record), f"view=image&heads={HEAD}&fixed=14&scale=linear")
    weights = record["layers.0"].weights(heads=[HEAD], queries=[14])[0, 0, 0, 1:13]
    look = """(canvas) => {
        const {width, height} = canvas, {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
        const at = (x, y) => (Math.floor(y * height) * width + Math.floor(x * width)) * 4;
        return Array.from({length: 12}, (_, i) => data[at((i % 4 + .5) / 4, (Math.floor(i / 4) + .5) / 3) + 1]);
    }"""
    green = torch.tensor(page.get_by_role("application").evaluate(look))  # of viridis, it grows with the weight
    assert green.argmax() == weights.argmax()
    assert green[weights.argsort()].diff().min() >= -1


def spoken() -> pellucid.Record:
    """Cross-attention of words over frames of sound."""
    one = records.layer("decoder.0.cross", 2, 6, 50, role="cross")
    record = pellucid.Record("Tiny", {one.name: one}, tokens=[records.WORDS[:6]])
    record.frames = [pellucid.Frames(seconds_per_key=0.02, source=True)]
    return record


def test_frames_have_seconds(watched: Watched, serve: Callable[..., Served]) -> None:
    page = opened(watched, serve(r0=spoken()), "view=cross&heads=0")
    keys = page.get_by_role("listbox", name="Keys: what is read")
    expect(keys.get_by_role("option").nth(3)).to_have_text("0.06 s")
    page.get_by_role("listbox", name="Queries: what reads").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    settled(page)
    assert state_of(page)["fixed"] == "1"
    watched.shoot(page, "cross-sound")


def test_lines_from_a_weight_on(watched: Watched, serve: Callable[..., Served]) -> None:
    record = records.sentence()
    page = opened(watched, serve(r0=record), f"view=cross&layer=2&heads={HEAD}&threshold=0.1", height=1000)
    weights = record["decoder.0.cross"].weights(heads=[HEAD])
    expect(page.locator(".pl-cross")).to_contain_text(f"{int((weights >= 0.1).sum())} lines")
    page.get_by_role("slider", name="least weight of a line").fill("-0.30")
    expect(page.locator(".pl-cross")).to_contain_text(f"{int((weights >= 0.5).sum())} lines")
    page.get_by_label("Alignment").select_option("on")
    settled(page)
    watched.shoot(page, "cross-aligned")


@pytest.mark.parametrize("words", [6, 21])
def test_a_narrow_page_has_texts_of_a_line_above_each_other(
    watched: Watched, serve: Callable[..., Served], words: int
) -> None:
    """Longer ones stand side by side, so that no line of weight runs over a word."""
    served = serve(r0=records.sentence(records.WORDS[:words]))
    page = opened(watched, served, "view=cross&layer=2&heads=0", width=380, height=800)
    first, second = (one.bounding_box() for one in page.get_by_role("listbox").all())
    assert first is not None
    assert second is not None
    if words == 6:
        assert first["y"] + first["height"] <= second["y"]
    else:
        assert first["x"] + first["width"] < second["x"]
    watched.shoot(page, f"cross-narrow-{words}")


def test_texts_of_cross_attention_are_named_target_and_source(watched: Watched, sentence: str) -> None:
    page = watched.open(f"{sentence}#view=text&layer=2&heads=0")
    settled(page)
    for name in ("Queries (target): what reads", "Keys (source): what is read"):
        expect(page.get_by_role("listbox", name=name, exact=True)).to_be_visible()
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()


def test_the_ring_of_a_token_is_whole(watched: Watched, serve: Callable[..., Served]) -> None:
    """Tokens that bring their space with them touch: the next one's colour would lie over it."""
    served = serve(r0=records.sentence([f" {word}" for word in records.WORDS]))
    page = opened(watched, served, "view=text&layer=1&heads=3&fixed=5")
    ring = page.locator(".pl-token.pl-fixed")
    box = ring.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] + 1, box["y"] + box["height"] / 2
    clip = {"x": x, "y": y, "width": 1, "height": 1}
    shown = np.asarray(Image.open(BytesIO(page.screenshot(clip=clip))).convert("RGB"), int)
    assert abs(shown[0, 0] - [0xE6, 0x61, 0x00]).max() < 40

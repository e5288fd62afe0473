"""A saved page opens from disk, with no server and no network, and says what is not inside."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from pellucid.viewer.browser import saved
from pellucid.viewer.browser.answers import Answers
from tests.browser import records
from tests.browser.conftest import Watched, settled
from tests.browser.test_opening import VIEWS


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_opens_from_disk(watched: Watched, tmp_path: Path, view: str) -> None:
    page = saved.save(Answers({"r0": records.sentence(records.ODD)}), tmp_path / "page.html")
    watched.context.set_offline(True)
    opened = watched.open(f"{page.as_uri()}#view={view}&layer=2&heads=0")
    settled(opened)
    watched.shoot(opened, f"saved-{view}")
    assert opened.evaluate("window.broken") is None
    assert opened.get_by_role("alert").filter(visible=True).count() == 0


def test_what_is_on_screen_is_what_a_server_gives(watched: Watched, sentence: str, tmp_path: Path) -> None:
    page = saved.save(Answers({"r0": records.sentence()}), tmp_path / "page.html")
    shots = []
    for address in (sentence, page.as_uri()):
        opened = watched.open(f"{address}#view=map&layer=1&heads=1&query=3&key=2")
        settled(opened)
        shots.append(opened.get_by_role("application").first.screenshot())
    assert shots[0] == shots[1]


def test_what_is_left_out_is_said(watched: Watched, tmp_path: Path) -> None:
    page = saved.save(Answers({"r0": records.long(700)}), tmp_path / "page.html", max_bytes=1_400_000)
    opened = watched.open(page.as_uri())
    settled(opened)
    expect(opened.locator("body")).to_contain_text("Exact weights of 1 of 1 layers")
    for view in ("map", "text"):
        other = watched.open(f"{page.as_uri()}#view={view}&layer=0&heads=0")
        settled(other)
        watched.shoot(other, f"saved-small-{view}")


def test_a_page_begins_where_it_was_saved(watched: Watched, tmp_path: Path) -> None:
    state = {"view": "map", "layer": "1", "heads": "2", "colours": "magma"}
    page = saved.save(Answers({"r0": records.sentence()}), tmp_path / "page.html", state=state)
    opened = watched.open(page.as_uri())
    settled(opened)
    expect(opened.get_by_role("combobox", name="Colours")).to_have_value("magma")

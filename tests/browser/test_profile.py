"""The page of a profile in Chromium: its points, one head in full, and the page saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pellucid.viewer.browser.profiled.answers import ProfileAnswers
from pellucid.viewer.browser.profiled.saved import save_profile
from pellucid.viewer.viewing.served import Served
from tests.browser.conftest import Watched
from tests.profiles import checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

ROWS = ".pl-heads-main > .pl-head-table tbody tr"


@pytest.fixture(scope="module")
def answers() -> ProfileAnswers:
    return ProfileAnswers(checkpoints.whole(), "all.heads")


@pytest.fixture
def served(answers: ProfileAnswers) -> Iterator[Served]:
    one = Served(answers)
    yield one
    one.close()


def opened(page: Page) -> None:
    page.locator(".pl-histogram").wait_for()
    page.locator(".pl-example").first.wait_for()


def test_a_point_opens_its_head(served: Served, watched: Watched) -> None:
    page = watched.open(served.address)
    assert page.locator(".pl-scatter-drawing circle").count() == 6
    assert page.locator(ROWS).count() == 6
    watched.shoot(page, "profile")
    page.locator(".pl-scatter-drawing").press("Home")
    assert "documents" in page.locator(".pl-head-card").inner_text()
    page.locator(".pl-scatter-drawing").press("Enter")
    opened(page)
    assert page.locator(".pl-profiled h2").inner_text().startswith("layer ")
    assert "head=" in page.url
    page.get_by_role("button", name="entropy without sink", exact=True).click()
    assert "number=entropy_without_sink" in page.url
    opened(page)
    assert page.locator(".pl-distribution h3").inner_text() == "entropy, nats, without the sink"
    assert page.locator(".pl-example-query").count() >= 1
    page.get_by_role("button", name="keys that receive most").click()
    page.locator(".pl-example-key").first.wait_for()
    watched.shoot(page, "profile-head")
    page.go_back()
    page.get_by_role("button", name="← All heads").click()
    assert page.locator(ROWS).count() == 6


def test_statistics_sorting_and_kinds(served: Served, watched: Watched) -> None:
    page = watched.open(served.address)
    page.locator('[data-name="stat"]').select_option("median")
    page.locator('[data-name="sort"]').select_option("entropy")
    shown = [float(text) for text in page.locator(f"{ROWS} td:nth-child(10)").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    heading = page.locator(".pl-heads-main > .pl-head-table th button", has_text="entropy").first
    assert heading.get_attribute("title") == "median of entropy, nats, without the sink"
    page.locator('[data-name="sink"]').check()
    assert heading.get_attribute("title") == "median of entropy, nats"
    assert "sink=with" in page.url


@pytest.mark.parametrize(("width", "height"), [(390, 800), (1900, 1000)])
def test_a_saved_page_in_the_dark_and_small(
    answers: ProfileAnswers, dark: Watched, tmp_path: Path, width: int, height: int
) -> None:
    file = save_profile(answers, tmp_path / "page.html")
    page = dark.open(f"{file.as_uri()}#head=1.1&list=sequences", width=width, height=height)
    opened(page)
    dark.shoot(page, f"profile-saved-{width}")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width
    assert page.locator(".pl-notices").inner_text().count("its end was not seen") == 1

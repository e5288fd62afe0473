"""Chromium, and pages that are watched: any request to elsewhere, error or warning fails the test that opened them.

Screenshots go to the folder PELLUCID_SCREENSHOTS, where that is set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

import pellucid
from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.viewing.served import Served
from tests.browser import records

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)
DEVELOPMENT = Path(os.environ.get("PELLUCID_NODE_MODULES", Path(__file__).parent / "node_modules"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    named = os.environ.get("PELLUCID_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if named is None:
        pytest.fail("there is no Chromium: install the distribution's, or name it in PELLUCID_CHROMIUM", pytrace=False)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=named, args=list(_ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Serves records, by id; `port` and `token` as an earlier server had them."""
    opened: list[Served] = []

    def start(port: int = 0, token: str | None = None, lesson: Any = None, **named: pellucid.Record) -> Served:
        opened.append(Served(Answers(named, lesson), port, token))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def sentence(serve: Callable[..., Served]) -> str:
    """The address of a page of a few words."""
    return serve(r0=records.sentence()).address


class Watched:
    """Pages of one browser context, and what they did that they must not."""

    def __init__(self, context: BrowserContext, shots: Path | None) -> None:
        self.context = context
        self.shots = shots
        self.wrong: list[str] = []
        self.may_fail = False  # while a server is gone, a browser says so

    def open(self, address: str, **size: int) -> Page:
        """A page, once its first view is there. `file:` and `http:` addresses may ask nobody but themselves."""
        page = self.context.new_page()
        if size:
            page.set_viewport_size({"width": size.get("width", 1280), "height": size.get("height", 800)})
        own = address.split("#")[0]
        page.on("request", lambda request: self._asked(request.url, own))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda message: self._said(message.type, message.text))
        page.goto(address)
        page.locator(".pl-view > *").first.wait_for()
        return page

    def _asked(self, url: str, own: str) -> None:
        if not url.startswith((own, "data:", "blob:")):
            self.wrong.append(f"asked for {url}")

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not (self.may_fail and "Failed to load resource" in text):
            self.wrong.append(f"{kind}: {text}")

    def shoot(self, page: Page, name: str) -> bytes:
        """A screenshot, kept where screenshots are to be kept."""
        if self.shots is None:
            return page.screenshot()
        return page.screenshot(path=self.shots / f"{name}.png")


def _watched(browser: Browser, **options: Any) -> Iterator[Watched]:
    folder = os.environ.get("PELLUCID_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True, **options)
    context.set_default_timeout(20_000)
    watched = Watched(context, Path(folder) if folder else None)
    yield watched
    context.close()
    assert not watched.wrong


@pytest.fixture
def watched(browser: Browser, serve: Callable[..., Served]) -> Iterator[Watched]:
    """A browser's window in light colours, which is closed before the servers are."""
    yield from _watched(browser, color_scheme="light")


@pytest.fixture
def dark(browser: Browser, serve: Callable[..., Served]) -> Iterator[Watched]:
    """The same in dark colours."""
    yield from _watched(browser, color_scheme="dark")


def settled(page: Page) -> None:
    """Wait until all that is visible is final."""
    page.locator('.pl-view > [aria-busy="false"]').first.wait_for()
    page.wait_for_timeout(120)

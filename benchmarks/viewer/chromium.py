"""The browser, and what one of its pages holds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

_ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_SOFTWARE_GL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SIZE: ViewportSize = {"width": 1400, "height": 900}


@contextmanager
def browser(software_gl: bool = False) -> Iterator[Browser]:
    """Chromium of the system, without a window; WebGL is there where the machine has it, or is computed if wanted.

    Raises:
        SystemExit: there is none.

    """
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("no Chromium is found on the PATH; install it, on Debian by: apt-get install chromium")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=_ARGUMENTS + (_SOFTWARE_GL if software_gl else []))
        yield opened
        opened.close()


def megabytes(page: Page) -> float:
    """What the page's process holds of its own, its script's memory and canvases counted; Linux only."""
    session = page.context.browser.new_browser_cdp_session()  # type: ignore[union-attr]
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    renderers = [int(process["id"]) for process in processes if process["type"] == "renderer"]
    held = [
        re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{one}/status").read_text(encoding="ascii")) for one in renderers
    ]
    return max(int(found[1]) for found in held if found) / 1024

"""Our page: from the command to the first map, zooms and drags on a long text."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

from benchmarks.viewer import records
from benchmarks.viewer.chromium import SIZE, megabytes

_DRAWN = """() => ['coarse', 'final'].includes(document.querySelector('[data-drawn]')?.dataset.drawn)"""
_FINAL = """() => document.querySelector('[data-drawn]')?.dataset.drawn === 'final'"""
_FRAMES = """() => {
  window.frames_ = []; let last = performance.now();
  const tick = (now) => { window.frames_.push(now - last); last = now; window.ticking = requestAnimationFrame(tick); };
  window.ticking = requestAnimationFrame(tick);
}"""


@contextmanager
def served(path: Path) -> Iterator[tuple[str, float]]:
    """The address of a record's page and the seconds until it was printed."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pellucid", "view", str(path), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = next(line.strip() for line in process.stdout if line.startswith("http"))
            yield address, time.perf_counter() - start
        finally:
            process.terminate()


def opening(browser: Browser, folder: Path) -> None:
    """Print how long two records take until their first map, their walls and all of them are drawn."""
    for shape, view in ((records.LONG, "map"), (records.LONG, "heads"), (records.WIDE, "heads"), (records.WIDE, "map")):
        with served(records.record(folder, shape)) as (address, until_printed):
            page = browser.new_page(viewport=SIZE)
            start = time.perf_counter()
            page.goto(f"{address}#view={view}&layer=0&heads=0")
            times = [_until(page, what, start) for what in (_DRAWN, _FINAL)]
            heads = f"{shape.layers} x {shape.heads} heads, {shape.tokens:,} tokens, {view}"
            print(
                f"{heads}: first drawn {times[0]:.2f} s, final {times[1]:.2f} s (and before that {until_printed:.1f} s "
                f"from the command to its address); the page holds {megabytes(page):.0f} MB",
                flush=True,
            )
            page.close()


def zooming(browser: Browser, folder: Path, rounds: int) -> None:
    """Print how long zooms of one long head take, and how smooth drags are."""
    with served(records.record(folder, records.HUGE)) as (address, _):
        page = browser.new_page(viewport=SIZE)
        start = time.perf_counter()
        page.goto(f"{address}#view=map&layer=0&heads=0")
        print(f"131,072 tokens: first drawn {_until(page, _DRAWN, start):.2f} s", flush=True)
        print(f"pyramid built, and final: {_until(page, _FINAL, start, limit=900):.1f} s", flush=True)
        for name, wide in (("exact windows, up to 8 tokens a pixel", (256, 6_000)), ("levels", (12_000, 131_072))):
            _zooms(page, name, wide, rounds)
        _drags(page, rounds)
        print(f"the page holds {megabytes(page):.0f} MB", flush=True)


def _zooms(page: Page, name: str, wide: tuple[int, int], rounds: int) -> None:
    drawn, final = [], []
    for number in range(rounds):
        drawn_at = random.Random(number)
        width = drawn_at.randint(*wide)
        q = drawn_at.randint(0, records.HUGE.tokens - width)
        k = drawn_at.randint(0, q)
        first, last = page.evaluate(_ZOOM, [f"{q}:{q + width}", f"{k}:{k + width}"])
        drawn.append(first)
        final.append(last)
    print(f"{name}: something after {_median_and_worst(drawn)}, final after {_median_and_worst(final)}", flush=True)


# The address moves as going back or a bookmark moves it; times are from there to the marks that the map sets.
_ZOOM = """async ([q, k]) => {
  performance.clearMarks();
  const start = performance.now();
  const words = new URLSearchParams(location.hash.slice(1));
  words.set('q', q); words.set('k', k);
  history.pushState(null, '', '#' + words);
  window.dispatchEvent(new PopStateEvent('popstate'));
  const mark = async (name) => {
    for (;;) {
      const found = performance.getEntriesByName(name).at(-1);
      if (found) return found.startTime - start;
      await new Promise(requestAnimationFrame);
    }
  };
  return [await mark('pl-drawn'), await mark('pl-final')];
}"""


def _drags(page: Page, rounds: int) -> None:
    page.evaluate(_ZOOM, ["60000:64000", "30000:34000"])
    box = page.locator("canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(_FRAMES)
    for step in range(20 * rounds):
        page.mouse.move(x + 150 * ((step % 60) - 30) / 30, y + 100 * ((step % 40) - 20) / 20)
    page.evaluate("cancelAnimationFrame(window.ticking)")
    page.mouse.up()
    frames = page.evaluate("window.frames_")
    print(f"frames while dragging: {_median_and_worst(frames)} of {len(frames)}", flush=True)


def _until(page: Page, what: str, start: float, limit: float = 120) -> float:
    page.wait_for_function(what, timeout=limit * 1000, polling="raf")
    return time.perf_counter() - start


def _median_and_worst(milliseconds: list[float]) -> str:
    return f"{statistics.median(milliseconds):.0f} ms (median), {max(milliseconds):.0f} ms (worst)"

"""BertViz and CircuitsVis beside our page: 6 layers of 12 heads (CircuitsVis one layer), of random weights."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from playwright.sync_api import Browser, Page, Route
from torch import Tensor

import pellucid
from benchmarks.viewer.chromium import SIZE, megabytes

LAYERS, HEADS = 6, 12
LENGTHS = (128, 512, 2_048)
GIVEN_UP = 120  # seconds
# Where the peers' scripts lie in a folder that npm installed them in: by the end of their address.
_SCRIPTS = {
    "require.min.js": "requirejs/require.js",
    "d3/5.7.0/d3.min.js": "d3/dist/d3.min.js",
    "d3/5.7.0/d3.js": "d3/dist/d3.js",
    "jquery/2.0.0/jquery.min.js": "jquery/dist/jquery.min.js",
}


def compare(browser: Browser, scripts: Path | None) -> None:
    """Print for each page and length: seconds to make it, its size, seconds until it is drawn, memory."""
    for length in LENGTHS:
        weights = [torch.rand(1, HEADS, length, length).pow(4).tril_() for _ in range(LAYERS)]
        weights = [one / one.sum(-1, keepdim=True) for one in weights]
        tokens = [f"t{number}" for number in range(length)]
        for name, (module, make, drawn) in PAGES.items():
            if find_spec(module) is None:
                print(f"{name}, {length} tokens: not installed")
                continue
            print(f"{name}, {length} tokens: {_measured(browser, scripts, make, drawn, weights, tokens)}", flush=True)


def _measured(
    browser: Browser, scripts: Path | None, make: Make, drawn: str, weights: list[Tensor], tokens: list[str]
) -> str:
    """What is printed of one page.

    Args:
        browser: that opens it.
        scripts: where the peers' scripts are.
        make: writes the page.
        drawn: a condition in JavaScript, true once something of the weights is drawn.
        weights: [1, heads, queries, keys] of each layer.
        tokens: of the text.

    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        start = time.perf_counter()
        make(weights, tokens, path)
        made = time.perf_counter() - start
        page = browser.new_page(viewport=SIZE)
        _serve_scripts(page, scripts)
        start = time.perf_counter()
        try:
            page.goto(path.as_uri(), timeout=GIVEN_UP * 1000, wait_until="commit")
            page.wait_for_function(drawn, timeout=GIVEN_UP * 1000)
            opened = f"drawn {time.perf_counter() - start:.2f} s later, holds {megabytes(page):.0f} MB"
        except Exception as error:  # a page that is too much for the browser ends in whatever way it does
            opened = f"not drawn within {GIVEN_UP} s ({str(error).splitlines()[0][:80]})"
        finally:
            page.close()
        return f"made in {made:.2f} s, {path.stat().st_size / 1e6:.1f} MB, {opened}"


def _serve_scripts(page: Page, scripts: Path | None) -> None:
    """Answer the scripts that a page asks of the network from a folder."""

    def answer(route: Route) -> None:
        address = route.request.url.split("?")[0]
        file = next((found for end, found in _files(scripts) if address.endswith(end)), None)
        if file is None or not file.exists():
            route.continue_()
            return
        route.fulfill(path=file, headers={"Access-Control-Allow-Origin": "*"})

    page.route(re.compile("^https?://"), answer)


def _files(scripts: Path | None) -> Iterator[tuple[str, Path]]:
    if scripts is not None:
        yield from ((end, scripts / "node_modules" / name) for end, name in _SCRIPTS.items())


Make = Callable[[list[Tensor], list[str], Path], None]


def _ours(weights: list[Tensor], tokens: list[str], path: Path) -> None:
    pellucid.view(weights, tokens=tokens).save(path)


def _head_view(weights: list[Tensor], tokens: list[str], path: Path) -> None:
    from bertviz import head_view

    path.write_text(head_view(weights, tokens, html_action="return").data, encoding="utf-8")


def _model_view(weights: list[Tensor], tokens: list[str], path: Path) -> None:
    from bertviz import model_view

    path.write_text(model_view(weights, tokens, html_action="return").data, encoding="utf-8")


def _circuitsvis(weights: list[Tensor], tokens: list[str], path: Path) -> None:
    from circuitsvis.attention import attention_patterns

    path.write_text(attention_patterns(tokens, weights[0][0]).local_src, encoding="utf-8")


_ANY_DRAWING = "() => document.querySelectorAll('svg line, svg path, canvas').length > 0"
PAGES: dict[str, tuple[str, Make, str]] = {
    "pellucid": (
        "pellucid",
        _ours,
        "() => ['coarse', 'final'].includes(document.querySelector('[data-drawn]')?.dataset.drawn)",
    ),
    "BertViz, head view, 6 x 12 heads": ("bertviz", _head_view, _ANY_DRAWING),
    "BertViz, model view, 6 x 12 heads": ("bertviz", _model_view, _ANY_DRAWING),
    "CircuitsVis, 1 x 12 heads": ("circuitsvis", _circuitsvis, _ANY_DRAWING),
}

"""BertViz and CircuitsVis beside our page: one head, and 6 x 12 heads (CircuitsVis 1 x 12), of random weights.

Each page is written in a process of its own, which may take 12 GB:
`python -m benchmarks.viewer.peers NAME TOKENS FILE`.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from playwright.sync_api import Browser, Page, Route
from torch import Tensor

import pellucid
from benchmarks.viewer.chromium import SIZE, megabytes

LENGTHS = (128, 512, 2_048)
PATIENCE = 60  # seconds that a page may take to be written, and then to be drawn
MOST_MEMORY = 12 << 30  # bytes
# Where the peers' scripts lie in a folder that npm installed them in: by the end of their address.
_SCRIPTS = {
    "require.min.js": "requirejs/require.js",
    "d3/5.7.0/d3.min.js": "d3/dist/d3.min.js",
    "jquery/2.0.0/jquery.min.js": "jquery/dist/jquery.min.js",
}


class Peer(NamedTuple):
    """A page that shows attention.

    Attributes:
        module: that writes it.
        write: it, of the weights [1, heads, queries, keys] of each layer, and the tokens.
        drawn: a condition in JavaScript, true once something of the weights is drawn.
        layers: how many it shows.
        heads: of each.

    """

    module: str
    write: Callable[[list[Tensor], list[str], Path], None]
    drawn: str
    layers: int
    heads: int


def compare(browser: Browser, scripts: Path | None, lengths: Sequence[int], patience: float) -> None:
    """Print for each page and length: seconds and memory to write it, its size, seconds until it is drawn, memory."""
    for length in lengths:
        for name, peer in PAGES.items():
            if find_spec(peer.module) is None:
                print(f"{name}, {length} tokens: not installed")
                continue
            print(f"{name}, {length} tokens: {_measured(browser, scripts, name, length, patience)}", flush=True)


def _measured(browser: Browser, scripts: Path | None, name: str, length: int, patience: float) -> str:
    """What is printed of one page."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        command = [sys.executable, "-m", "benchmarks.viewer.peers", name, str(length), str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
        except subprocess.TimeoutExpired:
            return f"not written within {patience:g} s"
        if done.returncode != 0:
            return f"not written ({(done.stderr.strip() or 'killed').splitlines()[-1][:80]})"
        seconds, grown = map(float, done.stdout.split()[-2:])
        written = f"written in {seconds:.2f} s with {grown:.0f} MB more, {path.stat().st_size / 1e6:.1f} MB"
        return f"{written}, {_opened(browser, scripts, path, PAGES[name].drawn, patience)}"


def _opened(browser: Browser, scripts: Path | None, path: Path, drawn: str, patience: float) -> str:
    page = browser.new_page(viewport=SIZE)
    _serve_scripts(page, scripts)
    start = time.perf_counter()
    try:
        page.goto(path.as_uri(), timeout=patience * 1000, wait_until="commit")
        page.wait_for_function(drawn, timeout=patience * 1000)
        return f"drawn {time.perf_counter() - start:.2f} s after it was opened, holds {megabytes(page):.0f} MB"
    except Exception as error:  # a page that is too much for the browser ends in whatever way it does
        return f"not drawn within {patience:g} s ({str(error).splitlines()[0][:80]})"
    finally:
        page.close()


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


def _ours(weights: list[Tensor], tokens: list[str], path: Path) -> None:
    pellucid.view(weights, tokens=tokens, open_browser=False).save(path)


def _head_view(weights: list[Tensor], tokens: list[str], path: Path) -> None:
    from bertviz import head_view

    path.write_text(head_view(weights, tokens, html_action="return").data, encoding="utf-8")


def _model_view(weights: list[Tensor], tokens: list[str], path: Path) -> None:
    from bertviz import model_view

    path.write_text(model_view(weights, tokens, html_action="return").data, encoding="utf-8")


def _circuitsvis(weights: list[Tensor], tokens: list[str], path: Path) -> None:
    from circuitsvis.attention import attention_patterns

    path.write_text(attention_patterns(tokens, weights[0][0]).local_src, encoding="utf-8")


_OUR_DRAWING = "() => ['coarse', 'final'].includes(document.querySelector('[data-drawn]')?.dataset.drawn)"
_ANY_DRAWING = "() => document.querySelectorAll('svg line, svg path, canvas').length > 0"
PAGES = {
    "Pellucid, one head, saved": Peer("pellucid", _ours, _OUR_DRAWING, 1, 1),
    "BertViz's head view, one head": Peer("bertviz", _head_view, _ANY_DRAWING, 1, 1),
    "CircuitsVis, one head": Peer("circuitsvis", _circuitsvis, _ANY_DRAWING, 1, 1),
    "Pellucid, 6 x 12 heads, saved": Peer("pellucid", _ours, _OUR_DRAWING, 6, 12),
    "BertViz's head view, 6 x 12 heads": Peer("bertviz", _head_view, _ANY_DRAWING, 6, 12),
    "BertViz's model view, 6 x 12 heads": Peer("bertviz", _model_view, _ANY_DRAWING, 6, 12),
    "CircuitsVis, 1 x 12 heads": Peer("circuitsvis", _circuitsvis, _ANY_DRAWING, 1, 12),
}


def main() -> None:
    """Write one page, and print the seconds and the megabytes that it took."""
    name, length, path = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    torch.manual_seed(0)
    peer = PAGES[name]
    import_module(peer.module)
    weights = [torch.rand(1, peer.heads, length, length).pow(4).tril_() for _ in range(peer.layers)]
    weights = [one / one.sum(-1, keepdim=True) for one in weights]
    start, held = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peer.write(weights, [f"t{number}" for number in range(length)], path)
    print(time.perf_counter() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024)


if __name__ == "__main__":
    main()

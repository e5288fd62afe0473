"""`pellucid explain`: self- and cross-attention step by step on small numbers, in the terminal or as a page."""

from __future__ import annotations

import argparse
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from pellucid.commands.console import console, tell
from pellucid.commands.errors import about
from pellucid.commands.reader import embedded_reader
from pellucid.nn import CrossAttention, SelfAttention
from pellucid.viewer.lesson.explain import Words, explanation, words_for_random_tokens, words_for_reader
from pellucid.viewer.lesson.steps import Lesson, layer_lesson, notebook_lessons


def run(options: argparse.Namespace) -> int:
    """Print both lessons, or show them as a page."""
    lessons = _of_random_tokens(options) if options.text is None else _of_reader(options.text, options.head or 0)
    if options.page or options.save is not None:
        return _as_page(lessons, options)
    screen = console()
    for number, (lesson, words) in enumerate(lessons):
        if number:
            screen.print()
        screen.print(explanation(lesson, words), crop=False)
    return 0


Told = tuple[Lesson, Words]


def _as_page(lessons: list[Told], options: argparse.Namespace) -> int:
    """Write the page, say where, and with --page open it."""
    from pellucid.viewer.lesson.page import explain_page

    with about("--page: "):
        text = explain_page(lessons)
    with about("--save: " if options.save is not None else "--page: "):
        path = options.save or Path(tempfile.mkdtemp(prefix="pellucid-")) / "explain.html"
        path.write_text(text, encoding="utf-8")
    if options.save is not None:
        tell(f"saved {path}")
    if options.page:
        address = path.resolve().as_uri()
        print(address, flush=True)
        if not options.no_browser and not webbrowser.open(address):
            tell("no browser opens it; open the address in one")
    return 0


def _of_random_tokens(options: argparse.Namespace) -> list[Told]:
    lessons = notebook_lessons(options.tokens, options.dim, options.context, options.seed, options.scale)
    return [(lesson, words_for_random_tokens(lesson, options.seed, options.scale)) for lesson in lessons]


def _of_reader(text: str, head: int) -> list[Told]:
    """One head of the embedded model's first encoder layer, and of its first cross-attention."""
    reader = embedded_reader()
    own = cast(SelfAttention, reader.encoder[0].attention)
    other = cast(CrossAttention, reader.decoder[0].cross_attention)
    with about(""), _last_inputs(own) as own_inputs, _last_inputs(other) as other_inputs:
        reading = reader.read(text)
    with about("--"):
        lessons = [
            layer_lesson(own, own_inputs, head, *reading.axes("encoder")),
            layer_lesson(other, other_inputs, head, *reading.axes("cross")),
        ]
    return [(lesson, words_for_reader(lesson, head)) for lesson in lessons]


@contextmanager
def _last_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What the layer was last called with inside the `with`."""
    inputs: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[:] = arguments

    hook = layer.register_forward_pre_hook(keep)
    try:
        yield inputs
    finally:
        hook.remove()

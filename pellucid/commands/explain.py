"""`pellucid explain`: self-attention, then cross-attention, step by step on small numbers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from pellucid.commands.console import console
from pellucid.commands.errors import about
from pellucid.commands.reader import embedded_reader
from pellucid.nn import CrossAttention, SelfAttention
from pellucid.viewer.lesson.explain import Words, explanation, words_for_random_tokens, words_for_reader
from pellucid.viewer.lesson.steps import Lesson, layer_lesson, notebook_lessons


def run(options: argparse.Namespace) -> int:
    """Print both lessons."""
    lessons = _of_random_tokens(options) if options.text is None else _of_reader(options.text, options.head or 0)
    screen = console()
    for number, (lesson, words) in enumerate(lessons):
        if number:
            screen.print()
        screen.print(explanation(lesson, words), crop=False)
    return 0


Told = tuple[Lesson, Words]


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

"""`pellucid lesson`: a trained model's attention in the browser, and a few steps through it; or the list of lessons."""

from __future__ import annotations

import argparse

from pellucid.commands import view
from pellucid.commands.console import console, tell
from pellucid.commands.errors import about
from pellucid.lessons import LESSONS


def run(options: argparse.Namespace) -> int:
    """Show a lesson until Ctrl-C, save it, or list them; the exit status.

    Raises:
        InputError: a model's weights are missing or damaged, or `view.shown` cannot show it.

    """
    if options.name is None:
        width = max(map(len, LESSONS))
        for lesson in LESSONS.values():
            console().print(f"{lesson.name.ljust(width)}  {lesson.summary}", soft_wrap=True)
        return 0
    lesson = LESSONS[options.name]
    with about(f"lesson {lesson.name}: "):
        record = lesson.record()
        told = lesson.told(record)
    tell(f"{lesson.title}: {len(told['steps'])} steps, in the panel of the page")
    opens = f"from pellucid.lessons import LESSONS\nrecord = LESSONS[{lesson.name!r}].record()"
    return view.shown({lesson.name: record}, options, told, {lesson.name: opens})

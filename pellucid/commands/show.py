"""`pellucid show`: reads dates with the embedded model, and shows the answer and one attention map of each.

A record is shown by `pellucid.commands.records`, a profile by `pellucid.commands.profiles.shown`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pellucid.commands import records, texts
from pellucid.commands.console import console, tell, tell_view, warnings_told
from pellucid.commands.errors import InputError, about
from pellucid.commands.profiles import shown as profiles
from pellucid.commands.reader import embedded_reader
from pellucid.demo.model.reading import Reading
from pellucid.viewer.document import document
from pellucid.viewer.heads import NEEDED
from pellucid.viewer.selection import Selection, select
from pellucid.viewer.terminal.page import page


@dataclass(frozen=True)
class _View:
    """One date that was read, and what of it is looked at."""

    given: texts.GivenText
    reading: Reading
    selection: Selection


def run(options: argparse.Namespace) -> int:
    """Show each date; the status is 1 if one could not be read, and the others are shown all the same.

    Raises:
        InputError: the dates or the record cannot be read at all, or the picture cannot be saved.

    """
    if any(map(profiles.is_profile, options.text)):
        return profiles.run(options)
    if options.sort is not None:
        raise InputError("--sort: is for a profile; leave it out with a record or a date")
    if (path := records.record_path(options)) is not None:
        return records.run(path, options)
    for option in ("pool", "queries", "keys"):
        if getattr(options, option) is not None:
            raise InputError(f"--{option}: is for a record; leave it out with a date")
    given = _given(options)
    views = _views(given, options)
    if options.save is not None:
        views = _saved(views, _picture(options.save, given), options)
    shown = _print_documents(views, as_list=given[0].line is not None) if options.json else _print_pages(views)
    if shown == 1 == len(given) and not options.json:
        tell_view(given[0].text)
    return 0 if shown == len(given) else 1


def _given(options: argparse.Namespace) -> list[texts.GivenText]:
    if options.file is not None:
        return texts.from_file(options.file)
    if options.text and options.text != ["-"]:
        return texts.from_words(options.text)
    return texts.from_standard_input()


def _views(given: list[texts.GivenText], options: argparse.Namespace) -> Iterator[_View]:
    """Read one date after the other; what is wrong with one goes to standard error."""
    reader = embedded_reader()
    for one in given:
        try:
            with about(one.place):
                reading = reader.read(one.text, readouts=NEEDED)
        except InputError as error:
            tell(f"{error}")
            continue
        with about("--"):
            head = None if options.head == records.MEAN else options.head
            selection = select(reading, options.attention, options.layer, head)
        yield _View(one, reading, selection)


def _print_pages(views: Iterable[_View]) -> int:
    """Print a page for each view, and return how many there were."""
    screen = console()
    count = 0
    for count, view in enumerate(views, start=1):
        if count > 1:
            screen.print()
        screen.print(page(view.reading, view.selection), crop=False)
    return count


def _print_documents(views: Iterable[_View], *, as_list: bool) -> int:
    """Print one JSON object, or a list of them with the line that each was read from; return how many there were.

    Each is printed when it was read, so that a long file can be followed.
    """
    count = 0
    for count, view in enumerate(views, start=1):
        line = {"line": view.given.line} if as_list else {}
        print(("[\n" if count == 1 else ",\n") if as_list else "", end="")
        print(json.dumps(line | document(view.reading, view.selection)), end="" if as_list else "\n", flush=True)
    if as_list:
        print("\n]" if count else "[\n\n]")
    return count


def _picture(path: Path, given: list[texts.GivenText]) -> ModuleType:
    """The module that draws, once it is known that it can draw this.

    Raises:
        InputError: matplotlib is missing, the path cannot be a picture's, or there are several dates.
    """
    try:
        from pellucid.viewer.pictures import picture
    except ModuleNotFoundError as error:
        raise InputError(f"--save: needs {error.name}, which is not installed; pip install matplotlib") from error
    with about("--save: "):
        picture.check_path(path)
    if len(given) > 1:
        raise InputError(f"--save: draws one date, got {len(given)}; give one alone")
    return picture


def _saved(views: Iterable[_View], picture: ModuleType, options: argparse.Namespace) -> Iterator[_View]:
    """The same views, each drawn once it was shown: the head if one is named, else every head."""
    for view in views:
        yield view
        with about("--save: "), warnings_told():
            if options.head is None:
                picture.save(view.reading, view.selection.kind, options.save)
            else:
                picture.of_head(view.reading, view.selection).save(options.save)
        tell(f"saved {options.save}")

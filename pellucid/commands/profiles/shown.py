"""`pellucid show all.heads`: every head over a corpus, one of them, or all of it as JSON."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from pellucid.commands.console import console, tell_view
from pellucid.commands.errors import InputError, about
from pellucid.profiles.disk.form import ENDING, FORMAT, ProfileError
from pellucid.profiles.disk.read import open_profile
from pellucid.profiles.numbers import number_of
from pellucid.profiles.profile import Profile
from pellucid.profiles.studies import tables
from pellucid.profiles.studies.corpus_kinds import corpus_kinds
from pellucid.viewer.terminal.profile_page import ProfileView, profile_page
from pellucid.viewer.terminal.profiled_head import head_page

_LOOKED_AT = 1 << 16  # bytes of a file, where its header says what it is
_OF_RECORDS = ("pool", "queries", "keys", "save", "file")


def is_profile(text: str) -> bool:
    """Whether a word of the command line means a profile: by its ending, or by what the file says of itself."""
    path = Path(text)
    if path.suffix == ENDING:
        return True
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return f'"{FORMAT}"'.encode() in file.read(_LOOKED_AT)
    except (OSError, ValueError):  # not to be read, too long for a path, or with a null character
        return False


def opened(text: str) -> Profile:
    """A profile. Raises InputError."""
    try:
        return open_profile(text)
    except ProfileError as error:
        raise InputError(str(error)) from error


def run(options: argparse.Namespace) -> int:
    """Show the profile; the exit status.

    Raises:
        InputError: it cannot be read, or an option does not fit it.

    """
    if len(options.text) > 1:
        raise InputError("TEXT: one profile is shown at a time; pellucid compare shows two of them, head by head")
    for name in _OF_RECORDS:
        if getattr(options, name) is not None:
            raise InputError(f"--{name}: is not for a profile; leave it out")
    profile = opened(options.text[0])
    places = chosen(profile, options)
    place = places[0] if options.head is not None else None
    if options.json:
        print(json.dumps(_document(profile, places, place, options.sort), allow_nan=False))
        return 0
    if place is None:
        page = profile_page(ProfileView(profile, places, options.sort))
        console().print(page, crop=False)
    else:
        console().print(head_page(profile, place, options.sort), crop=False)
    tell_view(options.text[0])
    return 0


def chosen(profile: Profile, options: argparse.Namespace) -> list[int]:
    """The heads that --layer and --head name. Raises InputError where there are none, or --sort is no number."""
    if options.sort is not None:
        with about("--sort: "):
            number_of(options.sort)
    if options.head is not None and options.layer is None:
        raise InputError("--head: name its layer too, as in --layer 3 --head 5")
    if isinstance(options.head, str):
        raise InputError("--head: must be the number of a head; a profile has no mean of heads")
    with about("--"):
        if options.head is not None:
            return [tables.head_of(profile, options.layer, options.head)]
        return tables.places_of(profile, options.layer)


def _document(profile: Profile, places: list[int], place: int | None, number: str | None) -> dict[str, Any]:
    heads = tables.heads_json(profile, tables.ordered(profile, places, number))
    if place is not None:
        telling = number or tables.telling_number(corpus_kinds(profile, without_sink=True)[place].name)
        heads[0] |= tables.where(profile).as_json(place)
        heads[0]["strongest"] = tables.examples_json(profile, place, telling)
    return tables.profile_json(profile) | {"heads": heads}

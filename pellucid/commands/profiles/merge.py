"""`pellucid merge`: the profile of all documents of several profiles."""

from __future__ import annotations

import argparse
from pathlib import Path

from pellucid.commands.console import tell
from pellucid.commands.errors import InputError
from pellucid.commands.profiles.telling import told_profile
from pellucid.profiles.disk.form import ProfileError
from pellucid.profiles.disk.read import open_profile
from pellucid.profiles.profile import Profile


def run(options: argparse.Namespace) -> int:
    """Merge the profiles and write what comes of it; the exit status.

    Raises:
        InputError: one cannot be read, they do not fit together, or the file cannot be written.

    """
    try:
        merged = _merged(options)
        merged.save(options.out, overwrite=options.overwrite)
    except ProfileError as error:
        raise InputError(str(error)) from error
    tell(told_profile(options.out, merged))
    return 0


def _merged(options: argparse.Namespace) -> Profile:
    first, *rest = options.profiles
    found = open_profile(first)
    for number, path in enumerate(rest):
        found = _with(found, path, "those before it" if number else str(first))
    return found


def _with(found: Profile, path: Path, others: str) -> Profile:
    other = open_profile(path)
    try:
        return found.merged(other)
    except ValueError as error:
        raise InputError(f"{path}: cannot be merged with {others}: {error}") from error

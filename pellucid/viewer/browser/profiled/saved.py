"""A profile's page in one file: all heads in numbers, each in full, and examples as far as there is room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pellucid.profiles.numbers import NUMBERS
from pellucid.profiles.studies.tables import telling_number
from pellucid.viewer.browser.answers import as_json
from pellucid.viewer.browser.bundle import joined, page_text
from pellucid.viewer.browser.profiled.answers import ProfileAnswers
from pellucid.viewer.browser.saved.gather import Told
from pellucid.viewer.browser.saved.pack import Pack, packed_of, size_of
from pellucid.viewer.browser.saved.page import MAX_BYTES, fits_in_page, html_of, progress, written

_RESERVED = 1_000  # bytes, for what is said to be left out
_LEAST = 500  # bytes that no list takes less than


def save_profile(answers: ProfileAnswers, path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Path:
    """Write the page of a profile to one file, whole or not at all.

    Args:
        answers: of the profile.
        path: of the file.
        max_bytes: what it may take; examples that do not fit are left out, and the page says which.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.
        ValueError: the heads in numbers alone do not fit.

    """
    return written(path, lambda: profile_page(answers, max_bytes))


def profile_page(answers: ProfileAnswers, max_bytes: int = MAX_BYTES) -> str:
    """The page as text; see `save_profile`."""
    script = f'"use strict";\n(() => {{\n{joined("profilesaved.js")}openSavedProfile();\n}})();\n'
    style = page_text("style.css")
    room = fits_in_page(script, style, max_bytes)
    title = f"Pellucid, {answers.described.title}"
    with progress() as told:
        held = _held(answers, room - _RESERVED, told)
    return html_of(script, style, title, {"answers": held, "state": {}})


def _held(answers: ProfileAnswers, room: int, told: Told) -> dict[str, Any]:
    """The answers that lie in the page, by name, the most needed first."""
    pack = Pack(answers, room)
    whole = answers.described.whole()
    pack.used += size_of("api/profile", packed_of(as_json(whole)))
    heads = range(len(answers.profile.heads))
    if pack.left < 0 or not pack.take({f"api/head {place}": ("api/head", {"head": place}) for place in heads}):
        raise ValueError(f"max_bytes: the numbers of {len(heads)} heads alone do not fit")
    wanted = list(_examples(answers))
    held = 0
    for done, (place, number) in enumerate(wanted):
        if pack.left < _LEAST:
            break
        told(done / len(wanted), "saving")
        query = {"head": place, "number": number}
        held += pack.take({f"api/examples {place} {number}": ("api/examples", query)})
    left = len(wanted) - held
    if left:
        whole["left_out"] = [f"{left} of {len(wanted)} lists of the strongest documents and queries"]
    return {**pack.held, "api/profile": packed_of(as_json(whole))}


def _examples(answers: ProfileAnswers) -> Iterator[tuple[int, str]]:
    """Every head and number, those first that tell best what a head does."""
    kinds = answers.described.kinds["without"]
    first = [telling_number(kind.name) for kind in kinds]
    yield from enumerate(first)
    for number in NUMBERS:
        yield from ((place, number) for place in range(len(kinds)) if first[place] != number)

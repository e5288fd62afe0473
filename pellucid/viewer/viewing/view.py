"""`pellucid.view`: whatever holds attention, opened in a notebook's cell or in the browser."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pellucid.observation import Observation
from pellucid.profiles.disk.form import ENDING
from pellucid.profiles.disk.read import open_profile
from pellucid.profiles.profile import Profile
from pellucid.record.given import record_of_weights
from pellucid.record.observed import record_of
from pellucid.record.record import Record
from pellucid.record.stored import open_record
from pellucid.record.texts import Texts
from pellucid.viewer.browser.describe import IN_MEMORY
from pellucid.viewer.viewing.profile_viewer import ProfileViewer
from pellucid.viewer.viewing.viewer import Viewer


def view(
    shown: Any,
    tokens: Texts = None,
    source_tokens: Texts = None,
    *,
    role: str | None = None,
    state: Mapping[str, str] | None = None,
    height: int = 640,
    open_browser: bool = True,
) -> Viewer | ProfileViewer:
    """Show attention in the notebook's cell, or in the browser where there is no notebook.

    Weights are shown as they are given: nothing is scaled or summed up to 1. A row that is NaN in all heads is padding.

    Args:
        shown: a Record, the path of one on disk, an Observation, or weights: a tensor or array [heads, queries, keys]
            ([queries, keys] and [batch, heads, queries, keys] too), or several in a list, a tuple such as
            `outputs.attentions` or a dict, a layer each. A list of records and observations opens them side by side.
            A Profile, or the path of one, has a page of its own.
        tokens: the queries' tokens, a list or one for each sequence of the batch; in self-attention the keys' too. A
            record knows its own.
        source_tokens: the keys' tokens in cross-attention, the same way.
        role: "self", "causal self" or "cross", of an observation or weights; seen from their shape if None.
        state: where the page begins, the words of its address: `{"view": "map", "layer": "3", "heads": "0"}`.
        height: of the cell in a notebook, in pixels.
        open_browser: whether a script opens the browser, and does not print the address alone.

    Returns:
        A Viewer, of a profile a ProfileViewer: `.url`, `.save("page.html")`, `.wait()`, `.close()`.

    Raises:
        ImportError: what serves the page is not installed.
        RecordError: the path leads to no record that can be opened.
        ProfileError: the path leads to a file that is no profile.
        TypeError: something else than these, or tokens that are no texts.
        ValueError: weights that are negative, infinite or NaN, or tokens that do not fit.

    Example:
        >>> import torch, pellucid
        >>> weights = torch.rand(2, 3, 3).softmax(-1)
        >>> page = pellucid.view(weights, ["a", "b", "c"], open_browser=False)  # doctest: +SKIP

    """
    if _is_profile(shown):
        if tokens is not None or source_tokens is not None or role is not None:
            raise TypeError("tokens, source_tokens, role: a profile has its own")
        profile = shown if isinstance(shown, Profile) else open_profile(shown)
        title = None if isinstance(shown, Profile) else Path(shown).name
        return ProfileViewer(profile, title, state=state, height=height, open_browser=open_browser).shown()
    several = _several(shown)
    records = {name: _as_record(one, tokens, source_tokens, role) for name, one in several.items()}
    given = {"tokens": tokens, "source_tokens": source_tokens}
    named = [name for name, value in given.items() if value is not None]
    opens = {
        name: _opens(one, named, role, number if len(several) > 1 else None)
        for number, (name, one) in enumerate(several.items())
    }
    return Viewer(records, opens=opens, state=state, height=height, open_browser=open_browser).shown()


def _is_profile(shown: Any) -> bool:
    """Whether it is a profile, or the path of one: that of a record leads to a folder."""
    if not isinstance(shown, str | PathLike):
        return isinstance(shown, Profile)
    return Path(shown).suffix == ENDING or Path(shown).is_file()


def _several(shown: Any) -> dict[str, Any]:
    """What is to be shown, by the id that the page's address has for it."""
    kinds = (Record, Observation, str, PathLike)
    is_list = isinstance(shown, list | tuple) and bool(shown) and all(isinstance(one, kinds) for one in shown)
    return {f"r{number}": one for number, one in enumerate(shown if is_list else [shown])}


def _opens(shown: Any, named: list[str], role: str | None, number: int | None) -> str:
    """The lines of Python that make `record` of what is shown, beginning with what its user has it in."""
    if isinstance(shown, Record | str | PathLike):
        return IN_MEMORY if number is None else f"# record: item {number} of the list that pellucid.view was given"
    of_call = isinstance(shown, Observation)
    name, module, made = ("seen", "observed", "record_of") if of_call else ("weights", "given", "record_of_weights")
    whose = "what .view() was called on, or" if of_call else "what"
    which = (
        f"{whose} pellucid.view was given"
        if number is None
        else f"item {number} of the list that pellucid.view was given"
    )
    options = [f"{one}={one}" for one in named] + ([f"role={role!r}"] if role is not None else [])
    arguments = ", ".join([name, *options])
    objects = ", ".join([name, *named])
    return f"# {objects}: {which}\nfrom pellucid.record.{module} import {made}\nrecord = {made}({arguments})"


def _as_record(shown: Any, tokens: Texts, source_tokens: Texts, role: str | None) -> Record:
    if isinstance(shown, Observation):
        return record_of(shown, tokens, source_tokens, role)
    if not isinstance(shown, Record | str | PathLike):
        return record_of_weights(shown, tokens, source_tokens, role)
    if tokens is not None or source_tokens is not None or role is not None:
        raise TypeError("tokens, source_tokens, role: a record has its own; set record.tokens before it is viewed")
    return shown if isinstance(shown, Record) else open_record(shown)

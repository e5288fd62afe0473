"""`pellucid.view`: whatever holds attention, opened in a notebook's cell or in the browser."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from pellucid.observation import Observation
from pellucid.record.given import record_of_weights
from pellucid.record.observed import record_of
from pellucid.record.record import Record
from pellucid.record.stored import open_record
from pellucid.record.texts import Texts
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
) -> Viewer:
    """Show attention in the notebook's cell, or in the browser where there is no notebook.

    Weights are shown as they are given: nothing is scaled or summed up to 1. A row that is NaN in all heads is padding.

    Args:
        shown: a Record, the path of one on disk, an Observation, or weights: a tensor or array [heads, queries, keys]
            ([queries, keys] and [batch, heads, queries, keys] too), or several in a list, a tuple such as
            `outputs.attentions` or a dict, a layer each. A list of records and observations opens them side by side.
        tokens: the queries' tokens, a list or one for each sequence of the batch; in self-attention the keys' too. A
            record knows its own.
        source_tokens: the keys' tokens in cross-attention, the same way.
        role: "self", "causal self" or "cross", of an observation or weights; seen from their shape if None.
        state: where the page begins, the words of its address: `{"view": "map", "layer": "3", "heads": "0"}`.
        height: of the cell in a notebook, in pixels.
        open_browser: whether a script opens the browser, and does not print the address alone.

    Returns:
        A Viewer: `.url`, `.save("page.html")`, `.wait()`, `.close()`.

    Raises:
        ImportError: what serves the page is not installed.
        RecordError: the path leads to no record that can be opened.
        TypeError: something else than these, or tokens that are no texts.
        ValueError: weights that are negative, infinite or NaN, or tokens that do not fit.

    Example:
        >>> import torch, pellucid
        >>> weights = torch.rand(2, 3, 3).softmax(-1)
        >>> page = pellucid.view(weights, ["a", "b", "c"], open_browser=False)  # doctest: +SKIP

    """
    records = {name: _as_record(one, tokens, source_tokens, role) for name, one in _several(shown).items()}
    return Viewer(records, state=state, height=height, open_browser=open_browser).shown()


def _several(shown: Any) -> dict[str, Any]:
    """What is to be shown, by the id that the page's address has for it."""
    kinds = (Record, Observation, str, PathLike)
    is_list = isinstance(shown, list | tuple) and bool(shown) and all(isinstance(one, kinds) for one in shown)
    return {f"r{number}": one for number, one in enumerate(shown if is_list else [shown])}


def _as_record(shown: Any, tokens: Texts, source_tokens: Texts, role: str | None) -> Record:
    if isinstance(shown, Observation):
        return record_of(shown, tokens, source_tokens, role)
    if not isinstance(shown, Record | str | PathLike):
        return record_of_weights(shown, tokens, source_tokens, role)
    if tokens is not None or source_tokens is not None or role is not None:
        raise TypeError("tokens, source_tokens, role: a record has its own; set record.tokens before it is viewed")
    return shown if isinstance(shown, Record) else open_record(shown)

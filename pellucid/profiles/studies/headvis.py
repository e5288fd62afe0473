"""A profile as a data tree for HeadVis: every head of self-attention in numbers, and its top-activating sequences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid._version import __version__
from pellucid.legible import encodable
from pellucid.profiles.numbers import NUMBERS
from pellucid.profiles.studies.corpus_kinds import CorpusKind, corpus_kinds
from pellucid.profiles.studies.tables import layer_numbers, plain

if TYPE_CHECKING:
    from os import PathLike

    from pellucid.profiles.listing import Example
    from pellucid.profiles.profile import Profile

GAP = "…"  # in the place of tokens that were not kept
Json = dict[str, Any]


def to_headvis(profile: Profile, path: str | PathLike[str]) -> Path:
    """Write a data tree for HeadVis, of the heads of self-attention, with the sequences in which each looks most.

    The tree is `config.json`, `scatter_data.json` and `heads/L<layer>H<head>.json`; docs/profiles.md says what is in
    them. A sequence is a stretch of 48 queries and what they looked at most, each pattern sparse and flat: entry
    `indices[i] = query * length + key` has the weight `values[i]`. Files and flat indices are HeadVis's; the names of
    the fields are ours, and have not been tried with its page.

    Args:
        profile: of a corpus.
        path: the folder, HeadVis's `data/`; made if need be.

    Returns:
        The folder.

    Raises:
        ValueError: there is no head of self-attention, or no sequences were kept.
        OSError: a file cannot be written.

    """
    places = [place for place, head in enumerate(profile.heads) if head.role != "cross"]
    if not places:
        raise ValueError("to_headvis: the profile has no head of self-attention")
    if not profile.layout.examples:
        raise ValueError("to_headvis: the profile keeps no sequences; make it with examples")
    folder = Path(path)
    (folder / "heads").mkdir(parents=True, exist_ok=True)
    scattered = _scattered(profile)
    names = {place: f"L{scattered[place]['layer']}H{scattered[place]['head']}" for place in places}
    _write_json(folder / "config.json", _config(profile, list(names.values())))
    _write_json(folder / "scatter_data.json", [scattered[place] for place in places])
    for place, name in names.items():
        sequences = [_sequence(example) for example in profile.sequences(place)]
        _write_json(folder / "heads" / f"{name}.json", scattered[place] | {"sequences": sequences})
    return folder


def _config(profile: Profile, names: list[str]) -> Json:
    modules = dict.fromkeys(head.layer for head in profile.heads)
    return {
        "model": profile.model,
        "written_by": f"pellucid {__version__}",
        "documents": profile.documents,
        "complete": profile.complete,
        "layers": [{"layer": number, "module": name} for number, name in enumerate(modules)],
        "heads": names,
        "metrics": list(NUMBERS),
    }


def _scattered(profile: Profile) -> list[Json]:
    """Every head's kinds, and its numbers: their means over the documents."""
    means = {number: profile.statistics(number).mean.tolist() for number in NUMBERS}
    kinds, rest = corpus_kinds(profile), corpus_kinds(profile, without_sink=True)
    return [
        {
            "layer": layer,
            "head": head.head,
            "module": head.layer,
            "role": head.role,
            **_told("kind", kinds[place]),
            **_told("kind_without_sink", rest[place]),
            **{number: plain(own[place]) for number, own in means.items()},
        }
        for place, (layer, head) in enumerate(zip(layer_numbers(profile), profile.heads, strict=True))
    ]


def _told(name: str, kind: CorpusKind) -> Json:
    return {name: kind.name, f"{name}_share": kind.share, f"{name}_low": kind.low, f"{name}_high": kind.high}


def _sequence(example: Example) -> Json:
    """A stretch with the tokens that were kept of its document, gaps as one token each."""
    known = dict(example.document.source_tokens if example.reads_source else example.document.tokens)
    used = {row.query for row in example.rows} | {key for row in example.rows for key in row.keys}
    positions: list[int | None] = []
    ordered = sorted(used)
    for at, before in zip(ordered, [None, *ordered], strict=False):
        if before is not None and at != before + 1:
            positions.append(None)
        positions.append(at)
    place = {at: number for number, at in enumerate(positions) if at is not None}
    pairs = [
        (place[row.query] * len(positions) + place[key], weight)
        for row in example.rows
        for key, weight in zip(row.keys, row.weights, strict=True)
    ]
    return {
        "activation": plain(example.value),
        "corpus": example.document.corpus,
        "document": example.document.number,
        "name": example.document.name,
        "document_length": example.document.length,
        "length": len(positions),
        "positions": positions,
        "tokens": [GAP if at is None else known.get(at, GAP) for at in positions],
        "pattern": {"indices": [index for index, _ in pairs], "values": [weight for _, weight in pairs]},
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(encodable(json.dumps(content, ensure_ascii=False, allow_nan=False)), encoding="utf-8")

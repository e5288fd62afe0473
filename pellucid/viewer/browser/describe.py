"""What the page is told of its records before it asks for values: layers, heads in numbers, tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid._version import __version__
from pellucid.record import runs
from pellucid.record.layer import Layer, Span
from pellucid.record.record import Record
from pellucid.record.stored import StoredRecord
from pellucid.record.studies.summary import PAIRED
from pellucid.record.texts import lists_of
from pellucid.viewer import special
from pellucid.viewer.browser import media
from pellucid.viewer.browser.values import MOST
from pellucid.viewer.titles import record_title

Json = dict[str, Any]

# Readings of a number a row or a key, with their units.
STRIPS = {
    "entropy": ("queries", "nats", "entropy of each query's weights"),
    "lse": ("queries", "nats", "logarithm of each query's sum of exponentials"),
    "max_scores": ("queries", "", "largest score of each query"),
    "sink_mass": ("queries", "", "weight on the learned sink"),
    "received": ("keys", "tokens", "weight that each key receives, summed over the queries"),
}
IN_MEMORY = "# record: what .view() was called on, or what pellucid.view was given"
TITLES = {
    "sink_mass": "mean weight on the learned sink",
    "first_mass": "mean weight on the first key",
    "entropy": "entropy, nats",
    "relative_entropy": "entropy over that of equal weights, 0 to 1",
    "previous": "weight on the token before",
    "distance": "mean tokens between query and key",
    "nearby": "weight on keys at most 4 places away",
    "induction": "weight on what follows another occurrence of the query's token",
    "duplicate": "weight on other occurrences of the query's token",
    "concentration": "of what keys receive: 0 all alike, 1 one takes everything",
}


def info(records: Mapping[str, Record], lesson: Json | None = None, opens: Mapping[str, str] | None = None) -> Json:
    """Everything that `api/info` says."""
    titles = _titles(records)
    described = [record_info(name, record) | {"title": titles[name]} for name, record in records.items()]
    for one in described:
        one["opens"] = one["opens"] or (opens or {}).get(one["id"], IN_MEMORY)
    return {"version": 1, "pellucid": __version__, "records": described, "lesson": lesson, "left_out": []}


def record_info(name: str, record: Record) -> Json:
    """One record."""
    path = getattr(record, "path", None)
    layers = [record[layer] for layer in record.layers]
    return {
        "id": name,
        "edition": record.edition,
        "title": record_title(record),
        "path": None if path is None else str(path),
        "model": record.model,
        "python": "record" if path is None else opened(str(path)),
        "opens": None if path is None else f"import pellucid\nrecord = {opened(str(path))}",
        "complete": record.complete,
        "following": isinstance(record, StoredRecord) and record.is_being_written,
        "notes": list(record.notes),
        "missed": [missed._asdict() for missed in record.missed],
        "batch": max((layer.batch for layer in layers), default=0),
        "segments": {name: _spans(span) for name, span in record.segments.items()},
        "images": media.images(record),
        "frames": media.frames(record),
        "layers": [layer_info(number, layer, record) for number, layer in enumerate(layers)],
    }


def opened(path: str) -> str:
    """The Python that opens a record."""
    return f"pellucid.open_record({path!r})"


def _titles(records: Mapping[str, Record]) -> dict[str, str]:
    """A short name for each record, no two alike: as much of its path's end as that takes."""
    paths = {name: getattr(record, "path", None) for name, record in records.items()}
    titles = {}
    for name, record in records.items():
        own = paths[name]
        alike = [one for other, one in paths.items() if other != name and one is not None]
        titles[name] = record_title(record) or name if own is None else _end(own, [*alike])
    counts = Counter(titles.values())
    return {name: title if counts[title] == 1 else f"{title} ({name})" for name, title in titles.items()}


def _end(path: Path, others: list[Path]) -> str:
    parts = path.parts
    for length in range(1, len(parts)):
        end = parts[-length:]
        if all(other.parts[-length:] != end for other in others):
            return "/".join(end)
    return str(path)


def layer_info(number: int, layer: Layer, record: Record) -> Json:
    """One layer."""
    known = {"own": record.tokens, "source": record.source_tokens}
    queries, keys = (listed if listed and known[listed] else None for listed in lists_of(record, layer))
    return {
        "number": number,
        "name": layer.name,
        "role": layer.role,
        "batch": layer.batch,
        "heads": layer.heads,
        "head_numbers": list(layer.head_numbers or range(layer.heads)),
        "kv_heads": layer.kv_heads,
        "q_len": layer.q_len,
        "k_len": layer.k_len,
        "start": layer.start,
        "calls": runs.starts(layer.call_rows) or [part.start - layer.start for part in layer.parts] or [0],
        "exact": layer.has_weights,
        "map": layer.has_weights or "pooled" in layer.readings,
        "top": has_top(layer),
        "tokens": {"queries": queries, "keys": keys},
        "query_offset": layer.start,
        "strips": strips(layer),
    }


def has_top(layer: Layer) -> bool:
    """Whether the strongest keys of each query were read, or are few enough to be looked for."""
    return "topk" in layer.readings or (layer.has_weights and layer.q_len * layer.k_len <= MOST)


def strips(layer: Layer) -> list[Json]:
    """The readings that can be drawn along an axis: of a number a query, or a key, and head."""
    found = []
    for name, reading in layer.readings.items():
        if not isinstance(reading, Tensor) or reading.shape[:2] != (layer.batch, layer.heads) or reading.dim() != 3:
            continue
        axis = "keys" if name == "received" else "queries"
        if reading.shape[2] != (layer.k_len if axis == "keys" else layer.q_len):
            continue
        _, unit, title = STRIPS.get(name, (axis, "", name))
        found.append({"name": name, "axis": axis, "unit": unit, "title": title})
    return found


def tokens(record: Record, sequence: int) -> Json:
    """The tokens of one sequence, and of what it reads where that is another."""
    own, source = (
        each[sequence] if each is not None and sequence < len(each) else None
        for each in (record.tokens, record.source_tokens)
    )
    return {
        "own": own,
        "source": source,
        "own_special": special.places(own or []),
        "source_special": special.places(source or []),
    }


def numbers(record: Record) -> Json:
    """Every head in numbers, by name."""
    rows = record.summary().rows
    places = {name: number for number, name in enumerate(record.layers)}
    counts: dict[str, int] = {}
    heads = []
    for row in rows:
        heads.append(counts.get(row.layer, 0))
        counts[row.layer] = heads[-1] + 1
    names = [name for one in TITLES for name in ((one, f"{one}_without_sink") if one in PAIRED else (one,))]
    words = ("kind", "because", "kind_without_sink", "because_without_sink")
    return {
        "layer": [places[row.layer] for row in rows],
        "head": heads,
        **{word: [getattr(row, word) for row in rows] for word in words},
        "numbers": {name: [_plain(getattr(row, name)) for row in rows] for name in names},
        "paired": list(PAIRED),
        "titles": TITLES,
    }


def _plain(value: float) -> float | None:
    return value if isfinite(value) else None


def _spans(span: Span) -> list[list[int | None]]:
    return [[one.start or 0, one.stop] for one in (span if isinstance(span, list) else [span])]

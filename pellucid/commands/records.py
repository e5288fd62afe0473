"""`pellucid show run.attn`: a record's heads in numbers and one head's map, or all of it as JSON, or a picture."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from pellucid.capture.run.progress import in_words
from pellucid.commands.console import bar, console, tell, tell_view, warnings_told
from pellucid.commands.errors import InputError, about
from pellucid.record.disk.manifest import NAME, RecordError
from pellucid.record.stored import StoredRecord, open_record
from pellucid.viewer.record_map import Look, Progress
from pellucid.viewer.terminal.record_page import RecordView, record_page

ENDING = ".attn"
MEAN = "mean"  # of all heads, in the place of a head's number
MOST_VERIFIED = 1 << 28  # bytes: what is compared with its checksums in a moment


def record_path(options: argparse.Namespace) -> Path | None:
    """The record that `pellucid show` is given, or None if it is given a date.

    Raises:
        InputError: there is more beside the record.

    """
    records = [Path(text) for text in options.text if is_record(text)]
    if records and len(options.text) > 1:
        raise InputError(f"TEXT: one record is shown at a time, got {len(options.text)} paths or words; give one alone")
    return records[0] if records else None


def is_record(text: str) -> bool:
    """Whether a word of the command line means a record, and no date."""
    path = Path(text)
    try:
        return path.suffix == ENDING or os.path.lexists(path / NAME)
    except (OSError, ValueError):  # too long for a path, or with a null character: a text
        return False


def run(path: Path, options: argparse.Namespace) -> int:
    """Show the record; the exit status.

    Raises:
        InputError: the record cannot be read, an option does not fit it, or the picture cannot be saved.

    """
    try:
        record = opened(path)
        view = _view(record, options)
        save = _saving(view, options) if options.save is not None else None
        if options.json:
            print(json.dumps(_document(view), allow_nan=False))
        else:
            with bar("the map") as told:
                page = record_page(replace(view, progress=told))
            console().print(page, crop=False)
        if save is not None:
            with about("--save: "), warnings_told(), bar("the picture") as told:
                save(told)
            tell(f"saved {options.save}")
        if not options.json:
            tell_view(str(path))
    except RecordError as error:
        raise InputError(str(error)) from error
    return 0


def opened(path: Path, *, skip_damaged: bool = False) -> StoredRecord:
    """The record, compared with its checksums unless it is large, which a note then says. Raises RecordError."""
    size = _size_of(path)
    record = open_record(path, verify=size <= MOST_VERIFIED, skip_damaged=skip_damaged)
    if size > MOST_VERIFIED:
        unverified = f"its {in_words(size)} were not compared with their checksums: open_record(path, verify=True) does"
        record.notes = [*record.notes, unverified]
    return record


def _size_of(path: Path) -> int:
    """Bytes of a record's files; 0 where they cannot be looked at, which opening it will tell."""
    try:
        return sum(file.lstat().st_size for file in path.glob("*.safetensors"))
    except (OSError, ValueError):
        return 0


def _view(record: StoredRecord, options: argparse.Namespace) -> RecordView:
    if not len(record):
        raise InputError(f"{record.path}: holds no layer yet; pellucid watch --resume goes on with it")
    number = len(record) - 1 if options.layer is None else options.layer
    _check_index("--layer", number, len(record), str(record.path))
    layer = record[number]
    head = None if options.head == MEAN else options.head
    if head is not None:
        _check_index("--head", head, layer.heads, f"layer {number}")
    for option, chosen, length, unit in (
        ("--queries", options.queries, layer.q_len, "queries"),
        ("--keys", options.keys, layer.k_len, "keys"),
    ):
        if chosen is not None and max(chosen.start or 0, (chosen.stop or 1) - 1) >= length:
            raise InputError(f"{option}: layer {number} has {length} {unit}, got {_written(chosen)}")
    look = Look(head, options.pool or "mean", options.queries or slice(None), options.keys or slice(None))
    return RecordView(record, record.summary(), number, look)


def _written(span: slice) -> str:
    return ":".join("" if end is None else str(end) for end in (span.start, span.stop))


def _check_index(option: str, number: int, count: int, owner: str) -> None:
    if not 0 <= number < count:
        raise InputError(f"{option}: {owner} has 0-{count - 1}, got {number}")


def _saving(view: RecordView, options: argparse.Namespace) -> Callable[[Progress], None]:
    """What draws the picture, once it is known that it can be drawn to the path: of a head if one is named."""
    try:
        from pellucid.viewer.pictures import head_picture, record_picture
    except ModuleNotFoundError as error:
        raise InputError(f"--save: needs {error.name}, which is not installed; pip install matplotlib") from error
    path, record, summary, look = options.save, view.record, view.summary, view.look
    with about("--save: "):
        record_picture.check_path(path)
    if options.head is None:
        return lambda told: record_picture.save(record, summary, path, look=look, progress=told)

    def save(told: Progress) -> None:
        head_picture.of_record(record, view.layer, look, summary=summary, progress=told).save(path)

    return save


def _document(view: RecordView) -> dict[str, Any]:
    """Everything about the record's heads, NaN and infinity as null."""
    record = view.record
    columns = view.summary.columns()
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return {
        "model": record.model,
        "complete": record.complete,
        "tokens": record.tokens,
        "source_tokens": record.source_tokens,
        "missed": [missed._asdict() for missed in record.missed],
        "notes": record.notes,
        "heads": [{name: _plain(value) for name, value in row.items()} for row in rows],
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value

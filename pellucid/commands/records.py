"""`pellucid show run.attn`: a record's heads in numbers and one head's map, or all of it as JSON, or a picture."""

from __future__ import annotations

import argparse
import json
import os
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any

from pellucid.commands.console import console, tell
from pellucid.commands.errors import InputError, about
from pellucid.record.disk.manifest import NAME, RecordError
from pellucid.record.stored import StoredRecord, open_record
from pellucid.viewer.terminal.record_page import RecordView, record_page

ENDING = ".attn"
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
        record = open_record(path, verify=size_of(path) <= MOST_VERIFIED)
        view = _view(record, options)
        picture = _picture(options.save) if options.save is not None else None
        if options.json:
            print(json.dumps(_document(view), allow_nan=False))
        else:
            console().print(record_page(view), crop=False)
        if picture is not None:
            with about("--save: "):
                picture.save(record, view.summary, options.save)
            tell(f"saved {options.save}")
    except RecordError as error:
        raise InputError(str(error)) from error
    return 0


def size_of(path: Path) -> int:
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
    if options.head is not None:
        _check_index("--head", options.head, layer.heads, f"layer {number}")
    return RecordView(record, record.summary(), number, options.head)


def _check_index(option: str, number: int, count: int, owner: str) -> None:
    if not 0 <= number < count:
        raise InputError(f"{option}: {owner} has 0-{count - 1}, got {number}")


def _picture(path: Path) -> ModuleType:
    """The module that draws records, once it is known that it can draw to the path."""
    try:
        from pellucid.viewer.pictures import record_picture
    except ModuleNotFoundError as error:
        raise InputError(f"--save: needs {error.name}, which is not installed; pip install matplotlib") from error
    with about("--save: "):
        record_picture.check_path(path)
    return record_picture


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

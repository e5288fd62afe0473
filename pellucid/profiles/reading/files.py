"""The documents of one file, read as they are asked for. What is wrong with one is said of it, and the next is read."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pellucid import legible

LARGEST = 1 << 26  # bytes of a document
_ROWS = 64  # of a Parquet file at a time


class Found(NamedTuple):
    """A document of a file."""

    text: str | None  # None where it cannot be read
    reason: str  # why not
    place: str  # in the file; "" for all of it
    share: float  # of the file read so far, of 1
    target: str | None = None  # what is written from it


_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    bytes: "bytes",
}


def unread(reason: str, place: str = "", share: float = 1.0) -> Found:
    """A document that cannot be read."""
    return Found(None, reason, place, share)


def told(error: OSError) -> str:
    """What an OSError says, in words that fit a sentence."""
    return (error.strerror or str(error)).lower()


def whole(path: Path) -> Iterator[Found]:
    """A file that is one document."""
    try:
        with _opened(path) as file:
            yield _decoded(file.read(LARGEST + 1), "", 1.0)
    except OSError as error:
        yield unread(told(error))


def lines(path: Path) -> Iterator[Found]:
    """A file with a document on each line that is not blank."""
    for found in _lines(path):
        if found.text is None or found.text.strip():
            yield found


def json_lines(path: Path, fields: Sequence[str]) -> Iterator[Found]:
    """A file with an object, or a text, on each line: fields of an object are its text and what is written from it."""
    for found in lines(path):
        yield found if found.text is None else _of_json(found, fields)


def parquet_rows(path: Path, fields: Sequence[str]) -> Iterator[Found]:
    """A Parquet file, a document a row: columns of texts, and of what is written from them.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.

    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with _opened(path) as plain, parquet.ParquetFile(plain) as file:
            known = file.schema_arrow.names
            missing = [field for field in fields if field not in known]
            if missing:
                yield unread(f"has no column {missing[0]!r}, but {', '.join(map(repr, known[:8]))}")
                return
            rows = max(1, file.metadata.num_rows)
            for batch in file.iter_batches(_ROWS, columns=list(fields), use_threads=False):
                for values in zip(*(batch.column(field) for field in fields), strict=True):
                    number += 1
                    yield _of_values([value.as_py() for value in values], fields, str(number), number / rows)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = told(error) if isinstance(error, OSError) and error.strerror else str(error)
        yield unread(f"cannot be read after row {number}: {reason.splitlines()[0] if reason else 'damaged'}")


def _of_values(values: Sequence[Any], fields: Sequence[str], place: str, share: float) -> Found:
    """The values of a row: its text, and what is written from it if there is a field for that."""
    found = [_of_value(value, place, share) for value in values]
    for one, field in zip(found, fields, strict=True):
        if one.text is None:
            return one._replace(reason=f"its field {field!r} {one.reason}") if len(fields) > 1 else one
    return found[0]._replace(target=found[1].text) if len(fields) > 1 else found[0]


def _of_value(value: Any, place: str, share: float) -> Found:
    if not isinstance(value, str):
        return unread(f"is no text but {_KINDS.get(type(value), type(value).__name__)}", place, share)
    return _checked(value, place, share)


def _of_json(found: Found, fields: Sequence[str]) -> Found:
    try:
        value = json.loads(found.text or "")
    except (ValueError, RecursionError):
        return unread("is no JSON", found.place, found.share)
    if not isinstance(value, dict):
        if len(fields) > 1:
            return unread(f"has no field {fields[1]!r}", found.place, found.share)
        return _of_value(value, found.place, found.share)
    missing = [field for field in fields if field not in value]
    if missing:
        return unread(f"has no field {missing[0]!r}", found.place, found.share)
    return _of_values([value[field] for field in fields], fields, found.place, found.share)


def _lines(path: Path) -> Iterator[Found]:
    number = 0
    try:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size or 1
            while line := file.readline(LARGEST + 1):
                number += 1
                _skip_rest(file, line)
                bare = line.rstrip(b"\r\n") if number > 1 else line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
                if bare.strip():
                    yield _decoded(bare, str(number), min(1.0, file.tell() / size))
    except OSError as error:
        yield unread(f"cannot be read after line {number}: {told(error)}")


def _skip_rest(file: BinaryIO, line: bytes) -> None:
    """Go to the end of a line that is too long to be a document."""
    while len(line) > LARGEST and not line.endswith(b"\n"):
        line = file.readline(LARGEST + 1)


def _decoded(content: bytes, place: str, share: float) -> Found:
    if len(content) > LARGEST:
        return unread(f"is larger than {LARGEST >> 20} MiB", place, share)
    try:
        return _checked(content.decode("utf-8-sig"), place, share)
    except UnicodeDecodeError as error:
        return unread(f"is no UTF-8 text (byte 0x{content[error.start]:02x} at {error.start})", place, share)


def _checked(text: str, place: str, share: float) -> Found:
    if not text.strip():
        return unread("is empty", place, share)
    if legible.encodable(text) != text:
        return unread("is no valid text: it holds half of a surrogate pair", place, share)
    return Found(text, "", place, share)


def _opened(path: Path) -> BinaryIO:
    """A plain file, to be read: a pipe would be waited for."""
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "it is no plain file")
    return file

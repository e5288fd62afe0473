"""A corpus on disk: its files in order, and the documents in them, each with its number.

A document that cannot be read has its number too, so that the others keep theirs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pellucid.profiles.reading import files
from pellucid.profiles.reading.files import Found

ENDINGS = {".jsonl": files.json_lines, ".ndjson": files.json_lines, ".parquet": files.parquet_rows}


class Document(NamedTuple):
    """A document of a corpus."""

    number: int  # from 0
    name: str  # its file, and its place there
    text: str | None  # None where it cannot be read
    reason: str  # why not
    share: float  # how much of the corpus, of 1, has been read once this one has
    target: str | None = None  # what a model that reads the text writes


class _File(NamedTuple):
    """A file of the corpus."""

    name: str  # within the corpus
    size: int
    fault: str = ""  # why it cannot be read


@dataclass(frozen=True)
class Texts:
    """The documents of a folder or a file.

    A folder's files are gone through in the order of their names, those of its folders too, hidden ones left out:
    `.jsonl` and `.parquet` hold a document a row, any other is one document. A single text file holds one a line.

    Args:
        path: the folder or file.
        field: the field, or column, that holds a document's text.
        target_field: the one that holds what a model writes from it, or None.

    Raises:
        ValueError: there is nothing at `path`, or it cannot be looked into.

    """

    path: Path
    field: str = "text"
    target_field: str | None = None

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise ValueError("there is no such file or folder")
        if not self.path.is_dir() and not self.path.is_file():
            raise ValueError("is neither a file nor a folder")

    @property
    def name(self) -> str:
        """What the corpus is called."""
        return self.path.resolve().name

    @property
    def way(self) -> str:
        """What a document is, in words."""
        if self.path.is_dir():
            return "a file each, or a row of a .jsonl or .parquet"
        return "a row each" if self.path.suffix.lower() in ENDINGS else "a line each"

    @property
    def _fields(self) -> tuple[str, ...]:
        return (self.field,) if self.target_field is None else (self.field, self.target_field)

    def identity(self) -> str:
        """A text that is another for other files: of their names and sizes, not of where they lie."""
        told = hashlib.sha256(repr((self.name, self.way, *self._fields)).encode("utf-8", "backslashreplace"))
        for file in self._files():
            told.update(f"\n{file.name!r} {file.size}".encode("utf-8", "backslashreplace"))
        return told.hexdigest()[:16]

    def __iter__(self) -> Iterator[Document]:
        """Every document in order."""
        found = list(self._files())
        whole, before, number = sum(file.size for file in found) or 1, 0, 0
        for file in found:
            for one in self._of_file(file):
                name = f"{file.name}:{one.place}" if one.place else file.name
                share = min(1.0, (before + one.share * file.size) / whole)
                yield Document(number, name, one.text, one.reason, share, one.target)
                number += 1
            before += file.size

    def _of_file(self, file: _File) -> Iterator[Found]:
        if file.fault:
            return iter([files.unread(file.fault)])
        path = self.path / file.name if self.path.is_dir() else self.path
        read = ENDINGS.get(path.suffix.lower())
        if read is not None:
            return read(path, self._fields)
        if self.target_field is not None:
            return iter(
                [files.unread(f"is no .jsonl or .parquet, which has fields, {self.target_field!r} one of them")]
            )
        return files.whole(path) if self.path.is_dir() else files.lines(path)

    def _files(self) -> Iterator[_File]:
        if not self.path.is_dir():
            yield _sized(self.path.name, self.path)
            return
        yield from sorted(_in_folder(self.path))


def _in_folder(root: Path) -> Iterator[_File]:
    faults: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=faults.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                path = Path(folder, name)
                yield _sized(path.relative_to(root).as_posix(), path)
    for fault in faults:
        yield _File(Path(str(fault.filename)).relative_to(root).as_posix(), 0, files.told(fault))


def _sized(name: str, path: Path) -> _File:
    try:
        return _File(name, os.stat(path).st_size)
    except OSError as error:
        return _File(name, 0, files.told(error))

"""What a record is called wherever it is shown: on the page, in its pictures and in those of `pellucid show`."""

from __future__ import annotations

from pathlib import Path

from pellucid.legible import one_line
from pellucid.record.record import Record
from pellucid.viewer.labels import shorten

LONGEST_TITLE = 60

# Folders of a checkpoint are often called so; then the one above is named too.
_SAYS_NOTHING = {"best", "checkpoint", "final", "latest", "model", "output", "weights"}


def record_title(record: Record) -> str:
    """The name of the folder that the record is read from; of one in memory its model's."""
    path = record_path(record)
    return short_model(record.model) if path is None else shorten(one_line(path.name), LONGEST_TITLE)


def record_path(record: Record) -> Path | None:
    """Where a record is read from, None in memory."""
    path: Path | None = getattr(record, "path", None)
    return path


def model_note(record: Record) -> str:
    """What is said of the model beside a title that does not name it."""
    return f"; {short_model(record.model)}" if record.model and record_path(record) is not None else ""


def short_model(model: str) -> str:
    """A record's model in few letters: its checkpoint without the folders before it, if it names one by a path."""
    name = one_line(model)
    parts = name.partition(" ")[2].replace("\\", "/").rstrip("/").split("/")
    end = "/".join(parts[-2:]) if parts[-1] in _SAYS_NOTHING else parts[-1]
    return shorten(end if len(parts) > 1 else name, LONGEST_TITLE)

"""Writes records: a folder `name.attn/` with a manifest and a file a layer, while the model runs.

A layer's file comes first, whole or not at all, then the manifest that names it: whenever writing ends, by a full disk,
Ctrl-C or a power cut, the folder is a record of the layers so far. `record/stored.py` reads it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from pellucid import legible
from pellucid.record.disk import manifest as manifests
from pellucid.record.disk.atomic import UNFINISHED
from pellucid.record.disk.faults import fault_of, opened
from pellucid.record.disk.layer_file import write_layer
from pellucid.record.disk.lock import FolderLock, LockedError
from pellucid.record.disk.manifest import Json, RecordError, described, layer_entries
from pellucid.record.disk.media import FILES as PICTURE_FILES
from pellucid.record.disk.media import PictureFiles, read_pictures

if TYPE_CHECKING:
    from os import PathLike

    from pellucid.record.layer import Layer
    from pellucid.record.record import Record

Keeps = Callable[[str], bool]

LAYER_FILES = "layer-*.safetensors"
_OTHER_RUN = "holds a record of another run"
_SIZES = ("role", "batch", "heads", "head_numbers", "q_len", "k_len", "head_dim")


def save(record: Record, path: str | PathLike[str], *, overwrite: bool = False, resume: bool = False) -> Path:
    """Write a whole record to the folder `path`, and return that. Raises RecordError.

    Args:
        record: what was watched.
        path: see `Record.save`, like those that follow.
        overwrite: see `Record.save`.
        resume: see `Record.save`.

    """
    with RecordWriter(path, record, overwrite=overwrite, resume=resume) as writer:
        for layer in record.values():
            writer.add(layer)
        writer.finish(record)
    return writer.folder


@contextmanager
def writing(
    path: str | PathLike[str], record: Record, *, resume: bool = False, keeps: Keeps | None = None
) -> Iterator[RecordWriter]:
    """A writer of a watched run to the folder `path`; on leaving, however that is, the manifest is completed.

    Args:
        path: see `RecordWriter`, as for those that follow.
        record: what is known of the run already.
        resume: whether one that is there is continued.
        keeps: of which layers query and key are kept.

    Raises:
        RecordError: as RecordWriter.

    """
    with RecordWriter(path, record, resume=resume, keeps=keeps) as writer:
        try:
            yield writer
        except BaseException:
            with suppress(RecordError):  # what went wrong first is what is told
                writer.close(record)
            raise
        writer.close(record)


class RecordWriter:
    """Writes a record layer by layer. `add` serves as `on_layer` of a watched run.

    A record has one writer at a time: until it is finished or closed, or as a context until that is left, no other
    can be made of the folder. Reading it meanwhile gives the layers that are whole.

    Args:
        path: the folder, made if need be.
        record: what is known of the run already.
        overwrite: whether a record that is there already is replaced.
        resume: whether one that is there is continued: its layers are kept, and `add` passes over them.
        keeps: of which layers, by name, the run keeps query and key; unless given, that is not compared on resuming.

    Attributes:
        folder: where.
        was_complete: whether what is continued had come to its end, and is undamaged.

    Raises:
        RecordError: something is there already, another writer writes it, or the folder cannot be made.

    """

    def __init__(
        self,
        path: str | PathLike[str],
        record: Record,
        *,
        overwrite: bool = False,
        resume: bool = False,
        keeps: Keeps | None = None,
    ) -> None:
        self.folder = Path(path)
        self._keeps = keeps
        self._record = record
        self._manifest = _fresh(record)
        self.was_complete = False
        self._lock: FolderLock | None = _locked(self.folder)
        try:
            if resume and os.path.lexists(self.folder / manifests.NAME):
                found = manifests.read(self.folder)
                manifests.verify(self.folder, found)
                self._manifest = _continued(self.folder, found, self._manifest, keeps)
                self.was_complete = found["complete"] and len(self.written) == len(found["layers"])
            else:
                _empty(self.folder, overwrite=overwrite)
            self._pictures = PictureFiles(self.folder, self._manifest)
            self._describe(record)
            self._write_manifest()
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others write the folder; this writer writes no more."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    @property
    def written(self) -> list[str]:
        """The names of the layers that the folder holds."""
        return list(layer_entries(self._manifest))

    def add(self, layer: Layer) -> Layer:
        """Write one layer, and return it as it is on the disk, so that its memory can be freed.

        Raises:
            RecordError: it cannot be written; those before it can be opened. Or it is written already, of another run.

        """
        self._check_right()
        entries = layer_entries(self._manifest)
        if layer.name not in entries:
            self.enter(self._write_layer(layer))
        else:
            self.compare(layer)
        return opened(self.folder, layer_entries(self._manifest)[layer.name], self.run)

    @property
    def run(self) -> str | None:
        """What tells the record's files from those of others."""
        return self._manifest.get("run")

    def enter(self, entry: Json) -> None:
        """Name a layer's file, which is written, in the manifest.

        Raises:
            RecordError: the manifest cannot be written.

        """
        self._check_right()
        self._manifest["layers"].append(entry)
        self._describe(self._record)
        self._write_manifest()

    def compare(self, layer: Layer) -> None:
        """Raise RecordError for a layer that is written already, of another run."""
        if difference := self._difference(layer, layer_entries(self._manifest)[layer.name]):
            raise RecordError(f"{self.folder}: {_OTHER_RUN}: {difference}; overwrite it, or name another")

    def finish(self, record: Record) -> None:
        """Write what is known of the run at its end.

        Raises:
            RecordError: it cannot be written.

        """
        self._check_right()
        self._describe(record)
        self._manifest["complete"] = record.complete
        self._write_manifest()

    def close(self, record: Record) -> None:
        """Finish the record and release it; where no layer was written, leave nothing.

        Raises:
            RecordError: it cannot be written.

        """
        try:
            if self.written:
                self.finish(record)
            elif self._has_right:
                (self.folder / manifests.NAME).unlink(missing_ok=True)
                with suppress(OSError):
                    self.folder.rmdir()
        finally:
            self.release()

    @property
    def _has_right(self) -> bool:
        return self._lock is not None and self._lock.is_own

    def _check_right(self) -> None:
        if not self._has_right:
            of = "another process" if self._lock is not None else "nobody any more: it was closed"
            raise RecordError(f"{self.folder}: this writer is of {of}; make one with resume=True")

    def _difference(self, layer: Layer, entry: Json) -> str | None:
        """What tells a layer from the one of its name that was written before, if anything."""
        for name in _SIZES:
            if entry[name] != getattr(layer, name):
                return f"{layer.name} has {name} {entry[name]}, not {getattr(layer, name)}"
        known, ids = self._manifest["token_ids"], self._record.token_ids
        if known is not None and ids is not None:
            both = min(len(known[0]), ids.shape[1])
            if [row[:both] for row in known] != ids[:, :both].tolist():
                return "its text is another"
        return None

    def _describe(self, record: Record) -> None:
        try:
            names = self._pictures.names(record.images)
        except OSError as error:
            raise self._failed("its pictures", error) from error
        known = manifests.header(record, names) | {"pictures": self._pictures.entries}
        kept = {name: known[name] for name in known if name not in ("layers", "complete")}
        self._manifest |= {name: value for name, value in kept.items() if value not in (None, {}, [])}

    def _write_layer(self, layer: Layer) -> Json:
        file = manifests.file_of(len(self._manifest["layers"]))
        kept = {} if self._keeps is None else {"kept": self._keeps(layer.name)}
        what = f"layer {legible.name(layer.name)}"
        try:
            return write_layer(self.folder, file, layer, self.run) | kept
        except OSError as error:
            raise self._failed(what, error) from error
        except RecordError:
            raise
        except ValueError as error:
            raise RecordError(
                f"{self.folder}: {what} could not be read again, so it is not written: {error}"
            ) from error

    def _write_manifest(self) -> None:
        try:
            manifests.write(self.folder, self._manifest)
        except OSError as error:
            raise self._failed(f"its {manifests.NAME}", error) from error
        except ValueError as error:
            raise RecordError(f"{self.folder}: its {manifests.NAME} cannot be written: {error}") from error

    def _failed(self, what: str, error: OSError) -> RecordError:
        count = len([entry for entry in self._manifest["layers"] if (self.folder / entry["file"]).is_file()])
        kept = f"; the record of the {count} layers before it can be opened" if count else ""
        return RecordError(f"{self.folder}: {described(error)} while writing {what}{kept}")


def _fresh(record: Record) -> Json:
    """The manifest of a run that is to be written, which a reader will take."""
    try:
        manifest = manifests.header(record) | {"run": uuid4().hex}
        manifests.check(manifest)
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"the record cannot be written: {error}") from error
    return manifest


def _continued(folder: Path, found: Json, fresh: Json, keeps: Keeps | None) -> Json:
    """The manifest of a record to go on with, its layers checked; those whose files are not whole are dropped."""
    for name in ("model", "tokens", "source_tokens", "readouts", "segments"):
        if found.get(name, fresh[name]) != fresh[name]:
            told = f" ({found[name]}, now {fresh[name]})" if name in ("model", "readouts") else ""
            raise RecordError(f"{folder}: {_OTHER_RUN}, with other {name}{told}; overwrite it, or name another")
    # A file's name is its number, so what comes after a damaged one is written again too.
    whole = list(takewhile(lambda entry: _is_whole(folder, entry, found.get("run")), found["layers"]))
    if keeps is not None and (difference := _kept_otherwise(whole, keeps)):
        raise RecordError(f"{folder}: {_OTHER_RUN}, with other keep ({difference}); overwrite it, or name another")
    found = found | {"layers": whole, "complete": False}
    try:
        read_pictures(folder, found, verify=True)
    except ValueError:  # the run that goes on has them again
        found = {name: value for name, value in found.items() if name not in ("images", "pictures")}
    try:
        _remove_leftovers(folder, [entry["file"] for entry in (*whole, *found.get("pictures", []))])
    except OSError as error:
        raise _not_writable(folder, error) from error
    return found


def _kept_otherwise(entries: list[Json], keeps: Keeps) -> str | None:
    """What of the layers on disk is kept otherwise than the run at hand keeps it, if anything."""
    words = {True: "are", False: "are not"}
    for entry in entries:
        kept = entry.get("kept", bool(entry["parts"]))  # what `on_layer` wrote may have lost its parts
        if kept != keeps(entry["name"]):
            return f"query and key of {entry['name']} {words[kept]} kept, now {words[not kept]}"
    return None


def _locked(folder: Path) -> FolderLock:
    """The lock of a folder, which is made if need be."""
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise RecordError(f"{folder}: is a file; name a folder, such as run.attn")
        folder.mkdir(parents=True, exist_ok=True)
        return FolderLock(folder)
    except LockedError:
        raise RecordError(f"{folder}: is being written by another run; wait until that ends, or name another") from None
    except OSError as error:
        raise _not_writable(folder, error) from error


def _empty(folder: Path, *, overwrite: bool) -> None:
    """Make room for a record in a folder that is there."""
    try:
        occupied = any(folder.iterdir())
        if occupied and not (folder / manifests.NAME).is_file():
            raise RecordError(f"{folder}: is a folder of other things; name one that does not exist")
        if occupied and not overwrite:
            raise RecordError(f"{folder}: holds a record already; overwrite it, resume it, or name another")
        (folder / manifests.NAME).unlink(missing_ok=True)
        shutil.rmtree(folder / manifests.MAPS, ignore_errors=True)
        _remove_leftovers(folder, [])
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> RecordError:
    return RecordError(f"{folder}: {described(error)}, so no record can be written there")


def _remove_leftovers(folder: Path, kept: list[str]) -> None:
    """Remove files that no manifest names, and what an interrupted writer left."""
    for file in [*folder.glob(LAYER_FILES), *folder.glob(PICTURE_FILES), *folder.glob(f".*{UNFINISHED}")]:
        if file.name not in kept:
            file.unlink()


def _is_whole(folder: Path, entry: Json, run: str | None) -> bool:
    return entry.get("complete", True) is True and fault_of(folder, entry, run, verify=True) is None

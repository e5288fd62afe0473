"""A record on disk, read as it is used: `open_record`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid import legible
from pellucid.record.belonging import Outline
from pellucid.record.disk import faults, media
from pellucid.record.disk import manifest as manifests
from pellucid.record.disk.lock import is_locked
from pellucid.record.disk.manifest import Json, RecordError, layer_entries
from pellucid.record.disk.plain_file import MappedFile
from pellucid.record.layer import Layer, Missed, Padding
from pellucid.record.record import Record

if TYPE_CHECKING:
    from os import PathLike


def open_record(path: str | PathLike[str], *, verify: bool = False, skip_damaged: bool = False) -> StoredRecord:
    """A record from its folder. Layers are mapped into memory when they are asked for, and read as they are used.

    Every field of the manifest and the header of every layer's file are checked before anything is made of them. Only
    plain files of the folder are read, and nothing in them is run.

    Args:
        path: the folder.
        verify: whether every byte is compared with the checksums; else only the files' sizes are checked.
        skip_damaged: whether damaged layers are left out, and listed in `missed`, rather than refused.

    Returns:
        A Record; `complete` says whether it was written to its end.

    Raises:
        RecordError: there is none, it is damaged, or it was written by a newer version.

    """
    folder = Path(path)
    state = manifests.state(folder)
    manifest = manifests.read(folder)
    found = [(entry, faults.fault_of(folder, entry, manifest.get("run"), verify)) for entry in manifest["layers"]]
    damaged = [(entry, fault) for entry, fault in found if fault is not None]
    if damaged and not skip_damaged:
        raise RecordError(
            f"{faults.damaged(folder, *damaged[0])}; open_record(path, skip_damaged=True) opens the others"
        )
    if verify:
        manifests.verify(folder, manifest)
    record = StoredRecord(folder, manifest, state)
    try:
        record.take_media(manifest, media.read_pictures(folder, manifest, verify=verify))
    except ValueError as error:
        if not skip_damaged:
            raise RecordError(f"{folder}: {error}; open_record(path, skip_damaged=True) opens the rest") from error
        record.take_media(manifest, None)
        record.notes = [*record.notes, legible.message(f"its pictures are left out: {error}")]
    for entry, fault in damaged:
        record.leave_out(entry["name"], legible.message(f"{entry['file']} is damaged: {faults.reason(fault)}"))
    return record


class StoredRecord(Record):
    """A record on disk. Its layers are opened when they are asked for.

    Attributes:
        path: the folder.

    """

    def __init__(self, folder: Path, manifest: Json, state: tuple[int, ...] | None = None) -> None:
        super().__init__()
        manifests.fill(self, manifest)
        self.path = folder
        self._entries = layer_entries(manifest)
        self._added: set[str] = set()  # layers that are not those of the files
        self._mapped: dict[str, MappedFile] = {}
        self._run: str | None = manifest.get("run")
        self._state = state
        self.written_by: dict[str, str] = manifest.get("written_by", {})

    def take_media(self, manifest: Json, pictures: Mapping[str, Tensor] | None) -> None:
        """Have the images and frames that the manifest speaks of, whatever layers there are of an unfinished run.

        Args:
            manifest: what it says.
            pictures: by name; None where they are left out.

        Raises:
            ValueError: an image or frames cannot be.

        """
        self._images = media.images_of(manifest, pictures)
        self._frames = media.frames_of(manifest)

    def outlines(self) -> list[Outline]:
        """What is known of each layer without opening it."""
        return [Outline.of(self._layers.get(name, self._entries.get(name))) for name in self.layers]

    def leave_out(self, name: str, reason: str) -> None:
        """Count a layer among those that were missed; one that was open keeps its place, with nothing in it."""
        if name in self._mapped:
            self._layers[name] = _emptied(self._layers[name])
            del self._mapped[name]
        else:
            del self._entries[name]
        self.missed.append(Missed(name, reason))

    @property
    def layers(self) -> list[str]:
        """The names of the layers, in the order of their first call."""
        return list(self._entries | self._layers)

    def __getitem__(self, name: str | int) -> Layer:
        """The layer called `name`, or with that number. Raises KeyError or IndexError as Record, or RecordError."""
        key = name
        if isinstance(name, int) and -len(self) <= name < len(self):
            key = self.layers[name]
        if key in self._entries:
            self._open(str(key))
        return super().__getitem__(key)

    def _open(self, name: str) -> None:
        """Have a layer open; one that was written over since is compared with its checksum. Raises RecordError."""
        if name in self._layers and (name not in self._mapped or self._mapped[name].is_unchanged):
            return
        entry = self._entries[name]
        mapped = MappedFile(self.path / entry["file"])
        fault = faults.fault_of(self.path, entry, self._run, verify=True) if name in self._mapped else None
        if fault is not None:
            raise faults.damaged(self.path, entry, fault)
        self._layers[name] = faults.opened(self.path, entry, self._run)
        self._mapped[name] = mapped

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def leave_out_damaged(self) -> None:
        """Leave out the layers whose files turn out to be damaged when they are opened."""
        for name in self.layers:
            fault = self._fault(name)
            if fault is not None:
                self.leave_out(name, fault)

    def _fault(self, name: str) -> str | None:
        try:
            _ = self[name]
        except RecordError as error:
            return str(error)
        return None

    @property
    def is_being_written(self) -> bool:
        """Whether a run is writing the record, so that layers will be added."""
        return not self.complete and is_locked(self.path)

    def newest(self) -> StoredRecord:
        """The record as it is on the disk now, without damaged layers; itself where it is whole, or nothing is new.

        Where one of another run has taken the place of a whole one, it is the newest.
        """
        state = manifests.state(self.path)
        if self._added or state == self._state:
            return self
        try:
            found = open_record(self.path, skip_damaged=True)
        except RecordError:  # it is being replaced
            return self
        if not self.complete or found._run != self._run:
            return found
        self._state = state
        return self

    @property
    def edition(self) -> str:
        """What is another once a layer was put in or taken out, or the files are those of another run."""
        return f"{self._run} {super().edition}"

    def add(self, layer: Layer) -> None:
        """Put a layer into the record, in the place of one of its name; the files stay as they are."""
        super().add(layer)
        self._added.add(layer.name)

    def fingerprint(self, name: str) -> str | None:
        """What tells a layer's file from every other: its checksum and run; None of a layer that has no file."""
        if name in self._added or name not in self._entries:
            return None
        entry = self._entries[name]
        return f"{self._run} {entry['file']} {entry['bytes']} {entry['crc32']:08x}"

    def save(self, path: str | PathLike[str], *, overwrite: bool = False, resume: bool = False) -> Path:
        """Write the record to another folder, as any record. Raises RecordError."""
        if self.path.resolve() == Path(path).resolve():
            raise RecordError(f"{path}: is the record itself; save it under another name")
        return super().save(path, overwrite=overwrite, resume=resume)


def _emptied(layer: Layer) -> Layer:
    """The layer with NaN for what was read on queries or keys, and nothing else; none of its numbers is looked at."""
    of_an_axis = [(layer.batch, layer.heads, length) for length in (layer.q_len, layer.k_len)]
    readings = {
        name: torch.full(reading.shape, torch.nan, device="cpu")
        for name, reading in layer.readings.items()
        if isinstance(reading, Tensor) and tuple(reading.shape) in of_an_axis
    }
    return replace(layer, parts=[], readings=readings, padding=Padding())

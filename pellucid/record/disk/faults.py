"""What is wrong with a layer on disk, and how it is told."""

from __future__ import annotations

from pathlib import Path

from pellucid import legible
from pellucid.record.disk.layer_file import check_layer, read_layer
from pellucid.record.disk.manifest import Json, RecordError, described
from pellucid.record.disk.tensor_file import checksum_of
from pellucid.record.layer import Layer


def fault_of(folder: Path, entry: Json, run: str | None, verify: bool) -> Exception | None:
    """What is wrong with a layer's file, or with what the manifest says of it, if anything.

    Args:
        folder: the record's.
        entry: what the manifest says of the layer.
        run: see `read_layer`.
        verify: whether every byte is compared with the checksum.

    """
    try:
        check_layer(folder, entry, run)
        if verify and checksum_of(folder / entry["file"]) != entry["crc32"]:
            return ValueError("its checksum is another")
    except (ValueError, OSError) as error:
        return error
    return None


def opened(folder: Path, entry: Json, run: str | None) -> Layer:
    """The layer of an entry. Raises RecordError where it is damaged."""
    try:
        return read_layer(folder, entry, run)
    except (ValueError, OSError) as error:
        raise damaged(folder, entry, error) from error


def damaged(folder: Path, entry: Json, fault: Exception) -> RecordError:
    """The error of a damaged layer."""
    return RecordError(f"{folder}: {entry['file']}, layer {legible.name(entry['name'])}, is damaged: {reason(fault)}")


def reason(fault: Exception) -> str:
    """A fault in words that fit a sentence."""
    return described(fault) if isinstance(fault, OSError) else str(fault)

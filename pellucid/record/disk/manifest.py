"""The manifest of a record on disk, `manifest.json`: what was watched and what each layer's file holds.

docs/records.md describes it for those who read records with other programs.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from pellucid import legible
from pellucid._version import __version__
from pellucid.record.disk import media, schema, strict_json
from pellucid.record.disk.atomic import write_atomically
from pellucid.record.disk.plain_file import open_plain, size_of
from pellucid.record.layer import Missed

if TYPE_CHECKING:
    from pellucid.record.layer import Span
    from pellucid.record.record import Record

NAME = "manifest.json"
MAPS = ".maps"  # a folder of what was computed of the layers to be looked at; no part of the record
FORMAT = "pellucid record"
VERSION = 1

Json = dict[str, Any]

LARGEST = 1 << 28  # bytes of a manifest: what a few million tokens take


def _span(value: Any, field: str) -> None:
    """A start and a stop, [start, stop]; null: from the first, to the end."""
    schema.list_of(schema.nullable(schema.whole()), 2)(value, field)
    if len(value) != 2 or (None not in value and value[1] < value[0]):
        raise ValueError(f"{field} must be [start, stop] with stop from start on, got {legible.name(value)}")


_CRC32 = schema.whole(0, (1 << 32) - 1)
# Every field of a manifest; layer_file.py has those of a layer that its file must fit.
_NEEDED: dict[str, schema.Kind] = {
    "model": schema.text,
    "complete": schema.flag,
    "tokens": schema.nullable(schema.list_of(schema.list_of(schema.text))),
    "source_tokens": schema.nullable(schema.list_of(schema.list_of(schema.text))),
    "token_ids": schema.nullable(schema.list_of(schema.list_of(schema.whole(-schema.INT64, schema.INT64 - 1)))),
    "segments": schema.map_of(schema.list_of(_span, 1)),
    "missed": schema.list_of(schema.fields({"name": schema.text, "reason": schema.text})),
    "layers": schema.list_of(schema.anything),
}
_OPTIONAL: dict[str, schema.Kind] = {  # not in records of the first releases
    "written_by": schema.map_of(schema.text),
    "readouts": schema.list_of(schema.text),
    "notes": schema.list_of(schema.text),
    "images": media.IMAGES,
    "pictures": media.PICTURES,
    "frames": media.FRAMES,
    "run": schema.name,
    "crc32": _CRC32,
}
_RECORD = schema.fields(_NEEDED, _OPTIONAL)
_FILE_OF_A_LAYER = schema.fields(
    {
        "name": schema.name,
        "file": schema.matching(r"layer-[0-9]{4,9}\.safetensors", "a name as layer-0000.safetensors"),
        "bytes": schema.whole(),
        "crc32": _CRC32,
    }
)

_EXACT = {
    "weights": "of a layer with parts: exp(score - lse), computed from query, key, the functions and lse when asked",
    "rows": "lse, entropy and every reading of a row are of all keys that it may look at; none is sampled",
    "received": "sums over all queries that are no padding",
    "topk": "the largest weights of each row, all of them exact; log_weights are natural logarithms",
    "pooled": "means over all queries of a bin of the sum over all keys of a bin",
    "padding": "rows and keys of padding are NaN (keys of topk: -1) and are counted nowhere",
}


class RecordError(ValueError):
    """A record on disk that cannot be opened or written: the one error of whatever is wrong with it.

    The message says where, what is wrong and what helps; names in it are shown as they may be printed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(legible.message(message))


def header(record: Record, pictures: Mapping[int, str] = MappingProxyType({})) -> Json:
    """What a manifest says of the whole run.

    Args:
        record: the run.
        pictures: the names of those in files, by the id of the tensor.

    Raises:
        RecordError: a segment has a step.

    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "written_by": versions(),
        "model": record.model,
        "complete": False,
        "tokens": record.tokens,
        "source_tokens": record.source_tokens,
        "token_ids": None if record.token_ids is None else record.token_ids.tolist(),
        "readouts": record.readouts,
        "notes": record.notes,
        "segments": {name: _spans(span) for name, span in record.segments.items()},
        "images": media.image_entries(record.images, pictures),
        "frames": media.frames_entries(record.frames),
        "missed": [{"name": missed.name, "reason": missed.reason} for missed in record.missed],
        "exact": _EXACT,
        "layers": [],
    }


def fill(record: Record, manifest: Json) -> None:
    """Give a record what its manifest says of the whole run."""
    record.model = manifest["model"]
    record.tokens, record.source_tokens = manifest["tokens"], manifest["source_tokens"]
    ids = manifest["token_ids"]
    record.token_ids = None if ids is None else torch.tensor(ids, dtype=torch.int64, device="cpu")
    record.segments = {name: _slices(spans) for name, spans in manifest["segments"].items()}
    record.readouts = manifest.get("readouts", [])
    record.notes = manifest.get("notes", [])
    record.missed = [Missed(missed["name"], missed["reason"]) for missed in manifest["missed"]]
    record.complete = manifest["complete"]


def write(folder: Path, manifest: Json) -> None:
    """Put the manifest into the folder, in place of the one there.

    Raises:
        ValueError: it could not be read again.
        OSError: it cannot be written.

    """
    whole = manifest | {"crc32": checksum(manifest)}
    content = json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False).encode("utf-8", "surrogatepass")
    if len(content) > LARGEST:
        raise ValueError(f"it would have {len(content)} bytes, and {LARGEST} are the most; give fewer tokens")

    def fill_file(file: BinaryIO) -> None:
        file.write(content)

    write_atomically(folder / NAME, fill_file)


def checksum(manifest: Json) -> int:
    """The CRC-32 of what a manifest says but for its own `crc32`, as the shortest ASCII JSON with sorted names."""
    rest = {key: value for key, value in manifest.items() if key != "crc32"}
    return zlib.crc32(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def verify(folder: Path, manifest: Json) -> None:
    """Raise RecordError if a manifest has a checksum, and it is another than that of what it says."""
    if "crc32" in manifest and manifest["crc32"] != checksum(manifest):
        raise RecordError(f"{folder}: its {NAME} is damaged: its checksum is another")


def read(folder: Path) -> Json:
    """The manifest in a folder, of this version of the format, right in every field but those of a layer's file.

    Raises:
        RecordError: there is none, it is damaged, or it was written by a newer version.

    """
    _check_folder(folder)
    try:
        with open_plain(folder / NAME) as file:
            if size_of(file) > LARGEST:
                raise ValueError(f"it has {size_of(file)} bytes, and {LARGEST} are the most")
            manifest = strict_json.loads(file.read())
    except FileNotFoundError:
        raise RecordError(
            f"{folder}: is no record: it holds no {NAME}; a record is a folder that Record.save wrote"
        ) from None
    except OSError as error:
        raise RecordError(f"{folder}: its {NAME} cannot be read ({described(error)})") from error
    except ValueError as error:
        raise RecordError(
            f"{folder}: its {NAME} is damaged ({error}); the layers' files beside it are whole"
        ) from error
    return _checked(folder, manifest)


def state(folder: Path) -> tuple[int, ...] | None:
    """What changes whenever the manifest is written; None where there is none."""
    try:
        found = os.lstat(folder / NAME)
    except (OSError, ValueError):  # of a name that no file can have
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _check_folder(folder: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except FileNotFoundError:
        raise RecordError(f"{folder}: there is no such record") from None
    except (OSError, ValueError) as error:  # too long, a null character, a link to itself
        reason = described(error) if isinstance(error, OSError) else str(error)
        raise RecordError(f"{folder}: cannot be opened ({reason})") from error
    if not is_folder:
        raise RecordError(f"{folder}: is no record: it is no folder; a record is a folder that Record.save wrote")


def check(manifest: Json) -> None:
    """Raise ValueError unless every field is what it must be, and no layer and no file is named twice."""
    missing = [key for key in _NEEDED if key not in manifest]
    if missing:
        raise ValueError(f"it says nothing of {', '.join(missing)}")
    _RECORD(manifest, "")
    if len({len(ids) for ids in manifest["token_ids"] or ()}) > 1:
        raise ValueError("token_ids must be of one length for all sequences")
    media.images_of(manifest, None)
    media.frames_of(manifest)
    try:
        schema.list_of(_FILE_OF_A_LAYER)(manifest["layers"], "layers")
    except ValueError as error:
        raise ValueError(f"it has a layer without name or file: {error}") from error
    for field in ("name", "file"):
        counts = Counter(entry[field] for entry in manifest["layers"])
        if len(counts) < len(manifest["layers"]):
            raise ValueError(f"it has two layers of the {field} {legible.name(counts.most_common(1)[0][0])}")


def _checked(folder: Path, manifest: Any) -> Json:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RecordError(f"{folder}: its {NAME} is not that of a record")
    version = manifest.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RecordError(f"{folder}: its {NAME} is damaged: version must be a number, got {legible.quoted(version)}")
    if version > VERSION:
        raise RecordError(
            f"{folder}: was written in version {legible.name(version)} of the format, and pellucid {__version__} reads "
            f"up to {VERSION}; upgrade pellucid to open it"
        )
    try:
        check(manifest)
    except ValueError as error:
        raise RecordError(f"{folder}: its {NAME} is damaged: {error}") from error
    return manifest


def versions() -> dict[str, str]:
    """The versions of what a file is written by."""
    versions = {"pellucid": __version__, "torch": torch.__version__}
    with suppress(importlib.metadata.PackageNotFoundError):
        versions["transformers"] = importlib.metadata.version("transformers")
    return versions


def _spans(span: Span) -> list[list[int | None]]:
    spans = span if isinstance(span, list) else [span]
    if any(one.step not in (None, 1) for one in spans):
        raise RecordError(f"segments: must be slices without a step, got {spans}")
    return [[one.start, one.stop] for one in spans]


def _slices(spans: list[Any]) -> Span:
    slices = [slice(start, stop) for start, stop in spans]
    return slices[0] if len(slices) == 1 else slices


def described(error: OSError) -> str:
    """What an OSError says, in words that fit a sentence."""
    return (error.strerror or str(error)).lower()


def layer_entries(manifest: Mapping[str, Any]) -> dict[str, Json]:
    """What the manifest says of each layer, by name."""
    return {entry["name"]: entry for entry in manifest["layers"]}

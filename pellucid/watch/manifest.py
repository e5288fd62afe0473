"""The manifest of a record on disk, `manifest.json`: what was watched and what each layer's file holds.

docs/records.md describes it for those who read records with other programs.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from pellucid._version import __version__
from pellucid.watch.atomic import write_atomically

if TYPE_CHECKING:
    from pellucid.watch.record import Record, Span

NAME = "manifest.json"
FORMAT = "pellucid record"
VERSION = 1

Json = dict[str, Any]

_OF_A_LAYER = {"name", "file", "bytes", "crc32", "readings", "padding", "parts"}

_EXACT = {
    "weights": "of a layer with parts: exp(score - lse), computed from query, key, the functions and lse when asked",
    "rows": "lse, entropy and every reading of a row are of all keys that it may look at; none is sampled",
    "received": "sums over all queries that are no padding",
    "topk": "the largest weights of each row, all of them exact; log_weights are natural logarithms",
    "pooled": "means over all queries of a bin of the sum over all keys of a bin",
    "padding": "rows and keys of padding are NaN (keys of topk: -1) and are counted nowhere",
}


class RecordError(ValueError):
    """A record on disk that cannot be opened or written; the message says where and what helps."""


def header(record: Record) -> Json:
    """What a manifest says of the whole run."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "written_by": _versions(),
        "model": record.model,
        "complete": False,
        "tokens": record.tokens,
        "source_tokens": record.source_tokens,
        "token_ids": None if record.token_ids is None else record.token_ids.tolist(),
        "readouts": record.readouts,
        "segments": {name: _spans(span) for name, span in record.segments.items()},
        "missed": [{"name": missed.name, "reason": missed.reason} for missed in record.missed],
        "exact": _EXACT,
        "layers": [],
    }


def fill(record: Record, manifest: Json) -> None:
    """Give a record what its manifest says of the whole run."""
    from pellucid.watch.record import Missed

    record.model = manifest["model"]
    record.tokens, record.source_tokens = manifest["tokens"], manifest["source_tokens"]
    ids = manifest["token_ids"]
    record.token_ids = None if ids is None else torch.tensor(ids, dtype=torch.int64, device="cpu")
    record.segments = {name: _slices(spans) for name, spans in manifest["segments"].items()}
    record.readouts = manifest.get("readouts", [])
    record.missed = [Missed(missed["name"], missed["reason"]) for missed in manifest["missed"]]
    record.complete = manifest["complete"]


def write(folder: Path, manifest: Json) -> None:
    """Put the manifest into the folder, in place of the one there.

    Raises:
        OSError: it cannot be written.

    """
    content = json.dumps(manifest, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")

    def fill_file(file: BinaryIO) -> None:
        file.write(content)

    write_atomically(folder / NAME, fill_file)


def read(folder: Path) -> Json:
    """The manifest in a folder, of this version of the format.

    Raises:
        RecordError: there is none, it is damaged, or it was written by a newer version.

    """
    if not folder.exists():
        raise RecordError(f"{folder}: there is no such record")
    if not (folder / NAME).is_file():
        raise RecordError(f"{folder}: is no record: it holds no {NAME}; a record is a folder that Record.save wrote")
    try:
        manifest = json.loads((folder / NAME).read_bytes().decode("utf-8", "surrogatepass"))
    except OSError as error:
        raise RecordError(f"{folder}: its {NAME} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RecordError(
            f"{folder}: its {NAME} is damaged ({error}); the layers' files beside it are whole"
        ) from error
    return _checked(folder, manifest)


def _checked(folder: Path, manifest: Any) -> Json:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RecordError(f"{folder}: its {NAME} is not that of a record")
    version = manifest.get("version")
    if not isinstance(version, int):
        raise RecordError(f"{folder}: its {NAME} is damaged: version must be a number, got {version!r}")
    if version > VERSION:
        raise RecordError(
            f"{folder}: was written in version {version} of the format, and pellucid {__version__} reads up to "
            f"{VERSION}; upgrade pellucid to open it"
        )
    wanted = ("model", "complete", "tokens", "source_tokens", "token_ids", "segments", "missed", "layers")
    missing = [key for key in wanted if key not in manifest]
    if missing:
        raise RecordError(f"{folder}: its {NAME} is damaged: it says nothing of {', '.join(missing)}")
    for entry in manifest["layers"]:
        if not isinstance(entry, dict) or _OF_A_LAYER - entry.keys() or Path(entry["file"]).name != entry["file"]:
            raise RecordError(f"{folder}: its {NAME} is damaged: it has a layer without name or file")
    return manifest


def _versions() -> dict[str, str]:
    versions = {"pellucid": __version__, "torch": torch.__version__}
    with suppress(importlib.metadata.PackageNotFoundError):
        versions["transformers"] = importlib.metadata.version("transformers")
    return versions


def _spans(span: Span) -> list[list[int | None]]:
    return [[one.start, one.stop] for one in (span if isinstance(span, list) else [span])]


def _slices(spans: list[Any]) -> Span:
    slices = [slice(start, stop) for start, stop in spans]
    return slices[0] if len(slices) == 1 else slices


def described(error: OSError) -> str:
    """What an OSError says, in words that fit a sentence."""
    return (error.strerror or str(error)).lower()


def layer_entries(manifest: Mapping[str, Any]) -> dict[str, Json]:
    """What the manifest says of each layer, by name."""
    return {entry["name"]: entry for entry in manifest["layers"]}

"""The images and frames of a record on disk: entries of its manifest, and files of the pictures.

The pictures that a manifest speaks of are in files of their own, each written once and never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid import legible
from pellucid.record.disk import schema
from pellucid.record.disk.tensor_file import checksum_of, read_tensors, write_tensors
from pellucid.record.frames import Frames
from pellucid.record.images import Image

Json = dict[str, Any]

FILES = "pictures-*.safetensors"
_POSITIONS = schema.list_of(schema.whole(), 1)
_OF_BOTH: dict[str, schema.Kind] = {
    "segment": schema.nullable(_POSITIONS),
    "source": schema.flag,
    "layers": schema.nullable(schema.list_of(schema.name)),
    "name": schema.name,
}
_IMAGE: dict[str, schema.Kind] = _OF_BOTH | {
    "rows": schema.whole(1),
    "columns": schema.whole(1),
    "positions": schema.nullable(_POSITIONS),
    "sequence": schema.whole(),
}
_FRAMES: dict[str, schema.Kind] = _OF_BOTH | {
    "seconds_per_key": schema.number,
    "offset": schema.number,
    "sequence": schema.nullable(schema.whole()),
}
IMAGES = schema.list_of(schema.fields(_IMAGE | {"picture": schema.nullable(schema.name)}))
FRAMES = schema.list_of(schema.fields(_FRAMES))
PICTURES = schema.list_of(
    schema.fields(
        {
            "file": schema.matching(r"pictures-[0-9]{4,9}\.safetensors", "a name as pictures-0000.safetensors"),
            "bytes": schema.whole(),
            "crc32": schema.whole(0, (1 << 32) - 1),
        }
    )
)


def image_entries(images: Iterable[Image], names: Mapping[int, str]) -> list[Json]:
    """What a manifest says of images.

    Args:
        images: a record's.
        names: of the pictures that are in files, by the id of the tensor.

    """
    return [
        {name: getattr(image, name) for name in _IMAGE} | {"picture": names.get(id(image.picture))} for image in images
    ]


def frames_entries(frames: Iterable[Frames]) -> list[Json]:
    """What a manifest says of frames."""
    return [{name: getattr(one, name) for name in _FRAMES} for one in frames]


def images_of(manifest: Json, pictures: Mapping[str, Tensor] | None) -> list[Image]:
    """The images that a manifest speaks of, without pictures where `pictures` is None.

    Raises:
        ValueError: one of them cannot be.

    """
    found = []
    for number, entry in enumerate(manifest.get("images", [])):
        name, fields = entry["picture"], {field: entry[field] for field in _IMAGE}
        if pictures is not None and name is not None and name not in pictures:
            raise ValueError(f"images[{number}]: there is no {legible.quoted(name)}")
        with _told(f"images[{number}]"):
            found.append(Image(**fields, picture=None if pictures is None else pictures.get(name)))
    return found


def frames_of(manifest: Json) -> list[Frames]:
    """The frames that a manifest speaks of. Raises ValueError where one of them cannot be."""
    found = []
    for number, entry in enumerate(manifest.get("frames", [])):
        with _told(f"frames[{number}]"):
            found.append(Frames(**{field: entry[field] for field in _FRAMES}))
    return found


@contextmanager
def _told(place: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error


def read_pictures(folder: Path, manifest: Json, *, verify: bool = False) -> dict[str, Tensor]:
    """The pictures of a record by name, mapped into memory.

    Args:
        folder: the record's.
        manifest: what it says.
        verify: whether every byte is compared with the checksums.

    Raises:
        ValueError: a file is missing, damaged, or of another run; the message names it.

    """
    found: dict[str, Tensor] = {}
    for entry in manifest.get("pictures", []):
        path = folder / entry["file"]
        try:
            tensors, metadata = read_tensors(path, entry["bytes"])
            if metadata.get("run") != manifest.get("run"):
                raise ValueError("it is of another run")
            if verify and checksum_of(path) != entry["crc32"]:
                raise ValueError("its checksum is another")
        except OSError as error:
            raise ValueError(f"{entry['file']} is damaged: {(error.strerror or str(error)).lower()}") from error
        except ValueError as error:
            raise ValueError(f"{entry['file']} is damaged: {error}") from error
        found |= tensors
    return found


class PictureFiles:
    """The files of pictures of a record that is being written.

    Args:
        folder: the record's.
        manifest: what it says so far.

    Attributes:
        entries: what the manifest is to say of them.

    Raises:
        ValueError: what is there is damaged.

    """

    def __init__(self, folder: Path, manifest: Json) -> None:
        self._folder, self._run = folder, manifest.get("run")
        self.entries: list[Json] = list(manifest.get("pictures", []))
        there = read_pictures(folder, manifest, verify=True)
        self._names = {_digest(picture): name for name, picture in there.items()}
        self._known: dict[int, tuple[Tensor, str]] = {}  # by id, with the tensor, so that no id is used twice

    def names(self, images: Iterable[Image]) -> dict[int, str]:
        """The names of the images' pictures by the id of the tensor; those in no file yet go into a new one.

        Raises:
            OSError: it cannot be written.

        """
        pictures = {id(image.picture): image.picture for image in images if image.picture is not None}
        digests = {key: _digest(picture) for key, picture in pictures.items() if key not in self._known}
        new = {digest: pictures[key] for key, digest in digests.items() if digest not in self._names}
        named = {digest: f"picture/{len(self._names) + number}" for number, digest in enumerate(new)}
        if new:
            self._write({named[digest]: picture for digest, picture in new.items()})
        self._names |= named
        self._known |= {key: (pictures[key], self._names[digest]) for key, digest in digests.items()}
        return {key: self._known[key][1] for key in pictures}

    def _write(self, tensors: dict[str, Tensor]) -> None:
        file = f"pictures-{len(self.entries):04d}.safetensors"
        size, checksum = write_tensors(self._folder / file, tensors, {} if self._run is None else {"run": self._run})
        self.entries.append({"file": file, "bytes": size, "crc32": checksum})


def _digest(picture: Tensor) -> bytes:
    content = hashlib.sha256(str(list(picture.shape)).encode())
    content.update(picture.contiguous().flatten().numpy().data)
    return content.digest()

"""A profile read from its file: everything is checked before anything is made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid import legible
from pellucid._version import __version__
from pellucid.profiles import corpus, excerpts, layout, sums
from pellucid.profiles.disk.form import ABOUT, FORMAT, LARGEST, SCHEMA, SKETCH, VERSION, ProfileError, seal_of
from pellucid.profiles.entries import Entries
from pellucid.profiles.excerpts import Excerpt
from pellucid.profiles.layout import Layout
from pellucid.profiles.numbers import NUMBERS
from pellucid.profiles.profile import Profile
from pellucid.profiles.sketch import PLACES, Sketch
from pellucid.record.disk import strict_json
from pellucid.record.disk.manifest import described
from pellucid.record.disk.tensor_file import TensorFile, read_tensors

Tensors = Mapping[str, Tensor]


def open_profile(path: str | os.PathLike[str]) -> Profile:
    """A profile from its file. Every field, tensor and the checksum are looked at; nothing in it is run.

    Raises:
        ProfileError: there is none, it is damaged, or it was written by a newer version.

    """
    place = Path(path)
    try:
        found = _file(Path(os.path.realpath(place)))  # a link to a profile is one
        _check_format(place, found.metadata)
        return _profile(found)
    except FileNotFoundError:
        raise ProfileError(f"{place}: there is no such profile") from None
    except OSError as error:
        raise ProfileError(f"{place}: cannot be read ({described(error)})") from error
    except ProfileError:
        raise
    except ValueError as error:
        raise ProfileError(f"{place}: is no profile, or a damaged one: {error}") from error


def _file(place: Path) -> TensorFile:
    size = os.lstat(place).st_size
    if size > LARGEST:
        raise ValueError(f"it has {size} bytes, and {LARGEST} are the most")
    return read_tensors(place, size)


def _check_format(place: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError("it does not say that it is one")
    version = metadata.get("version", "")
    if not (version.isdecimal() and version.isascii() and len(version) < 10):
        raise ValueError(f"its version must be a number, got {legible.quoted(version)}")
    if int(version) > VERSION:
        raise ProfileError(
            f"{place}: was written in version {version} of the format, and pellucid {__version__} reads up to "
            f"{VERSION}; upgrade pellucid to open it"
        )
    if int(version) < VERSION:
        raise ProfileError(
            f"{place}: was written in version {version} of the format, which lacks what {VERSION} tells; "
            "profile the corpus again"
        )


def _profile(found: TensorFile) -> Profile:
    tensors = {name: tensor.clone() for name, tensor in found.tensors.items()}
    if found.metadata.get("crc32") != seal_of(tensors):
        raise ValueError("its checksum is another")
    about = _about(tensors)
    its_layout = layout.layout_of(about["layout"])
    corpora = tuple(corpus.corpus_of(entry) for entry in about["corpora"])
    documents = tuple(excerpts.excerpt_of(entry) for entry in about["documents"])
    if list(documents) != sorted(set(documents)):
        raise ValueError("its documents are not in order")
    return Profile(
        about["model"],
        about["identity"],
        its_layout,
        corpora,
        tuple(about["written_by"]),
        _sums(tensors, its_layout),
        _sketch(tensors, its_layout),
        _lists(tensors, its_layout, documents),
        documents,
    )


def _about(tensors: Tensors) -> dict[str, Any]:
    content = _tensor(tensors, ABOUT, None, torch.uint8)
    about: dict[str, Any] = strict_json.loads(bytes(content.numpy()))
    SCHEMA(about, "")
    return about


def _tensor(tensors: Tensors, name: str, shape: tuple[int, ...] | None, dtype: torch.dtype) -> Tensor:
    """A tensor that must be there, of a shape (None: of one dimension) and a dtype."""
    found = tensors.get(name)
    if found is None:
        raise ValueError(f"it holds no tensor {name}")
    fits = found.ndim == 1 if shape is None else tuple(found.shape) == shape
    if found.dtype != dtype or not fits:
        raise ValueError(f"its tensor {name} is {found.dtype} {list(found.shape)}")
    return found


def _sums(tensors: Tensors, its_layout: Layout) -> Tensors:
    heads, classes = len(its_layout.heads), len(its_layout.classes)
    found = {}
    for name in sums.NAMES:
        shape = sums.shape_of(name, heads, classes)
        found[name] = _tensor(tensors, f"sums/{name}", shape, sums.dtype_of(name))
        fault = sums.fault(name, found[name])
        if fault is not None:
            raise ValueError(f"its tensor sums/{name} {fault}")
    if not torch.equal(found["histogram"].sum(-1), found["count"]):
        raise ValueError("its histograms are not of as many documents as it counts")
    return found


def _sketch(tensors: Tensors, its_layout: Layout) -> Sketch:
    found = Sketch(*(_tensor(tensors, name, None, torch.int64) for name in SKETCH))
    codes, counts = found
    last = len(its_layout.heads) * len(NUMBERS) * PLACES
    ordered = bool((codes[1:] > codes[:-1]).all()) and bool(((codes >= 0) & (codes < last)).all())
    counted = len(codes) == len(counts) and bool(((counts > 0) & (counts < sums.LARGEST)).all())
    if not ordered or not counted:
        raise ValueError("its sketch is no list of bins and counts")
    return found


def _lists(tensors: Tensors, its_layout: Layout, documents: tuple[Excerpt, ...]) -> Mapping[str, Entries]:
    found = {}
    for name, blank in its_layout.lists("meta").items():
        named = blank._asdict().items()
        parts = {part: _tensor(tensors, f"{name}/{part}", tuple(like.shape), like.dtype) for part, like in named}
        found[name] = Entries(**parts)
        _check_entries(name, found[name], len(documents))
    return found


def _check_entries(name: str, entries: Entries, documents: int) -> None:
    taken = entries.document >= 0
    fits = (entries.document >= -1) & (entries.document < documents)
    fits &= torch.where(taken, entries.value.isfinite(), entries.value == -torch.inf)
    for part in (entries.query, entries.key, entries.start):
        fits &= (part >= -1) & (part < excerpts.LARGEST)
    rows = (entries.keys >= -1) & (entries.keys < excerpts.LARGEST) & entries.weights.isfinite()
    ordered = not entries.size or bool((entries.value[..., 1:] <= entries.value[..., :-1]).all())
    if not bool(fits.all()) or not bool(rows.all()) or not ordered or not bool(entries.weight.isfinite().all()):
        raise ValueError(f"its list of {name} names what is not there, or is not in order")

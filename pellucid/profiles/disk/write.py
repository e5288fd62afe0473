"""A profile written to its file: the same bytes for the same profile, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from pellucid.profiles import excerpts, layout
from pellucid.profiles.disk.form import ABOUT, FORMAT, SKETCH, VERSION, ProfileError, content_of, seal_of
from pellucid.profiles.merging import without_spare
from pellucid.record.disk.manifest import described
from pellucid.record.disk.tensor_file import write_tensors

if TYPE_CHECKING:
    from pellucid.profiles.profile import Profile


def save(profile: Profile, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a profile.

    Raises:
        ProfileError: there is a file and it is not to be overwritten, or it cannot be written.

    """
    place = Path(path)
    if not overwrite and os.path.lexists(place):
        raise ProfileError(f"{place}: is there already; overwrite it, or name another")
    tensors = tensors_of(without_spare(profile))
    metadata = {"format": FORMAT, "version": str(VERSION), "crc32": seal_of(tensors)}
    try:
        write_tensors(place, tensors, metadata)
    except OSError as error:
        raise ProfileError(f"{place}: cannot be written ({described(error)})") from error


def tensors_of(profile: Profile) -> dict[str, Tensor]:
    """Everything that a file holds, by name."""
    about = {
        "model": profile.model,
        "identity": profile.identity,
        "written_by": list(profile.written_by),
        "layout": layout.as_json(profile.layout),
        "corpora": [corpus.as_json() for corpus in profile.corpora],
        "documents": [excerpts.as_json(excerpt) for excerpt in profile.excerpts],
    }
    found = {ABOUT: content_of(about), **dict(zip(SKETCH, profile.sketch, strict=True))}
    found |= {f"sums/{name}": tensor for name, tensor in profile.sums.items()}
    for name, entries in profile.lists.items():
        found |= {f"{name}/{part}": tensor for part, tensor in entries._asdict().items()}
    return {name: found[name] for name in sorted(found)}

"""A picture of what one call of attention did: `observation.save_picture(...)`."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from pellucid.observation import Observation
from pellucid.record.layer import Layer
from pellucid.record.observed import record_of
from pellucid.viewer.pictures import head_picture
from pellucid.viewer.pictures.sheet import check_path
from pellucid.viewer.record_map import POOLS, Look


def save(
    observation: Observation,
    path: str | PathLike[str],
    *,
    tokens: Any = None,
    source_tokens: Any = None,
    head: int | None = None,
    pool: str = "mean",
    queries: slice = slice(None),
    keys: slice = slice(None),
    sequence: int = 0,
    title: str | None = None,
) -> Path:
    """Write the picture; `Observation.save_picture` says what of.

    Args:
        observation: of the call.
        path: see there, as all that follow.
        tokens: see there.
        source_tokens: see there.
        head: see there.
        pool: see there.
        queries: see there.
        keys: see there.
        sequence: see there.
        title: see there.

    Raises:
        IndexError: no such head or sequence.
        OSError: the file cannot be written.
        RuntimeError: a tensor that weights are computed from was changed in place since the call.
        TypeError: tokens that are no texts.
        ValueError: a path, tokens, a pool or a window that does not fit.

    """
    target = Path(path)
    try:
        check_path(target)
    except ValueError as error:
        raise ValueError(f"path: {error}") from error
    record = record_of(observation, tokens, source_tokens)
    look = Look(head, pool, queries, keys, sequence)
    _check(look, record[0])
    named = title or ("attention, " + ("all heads" if head is None else f"head {head}"))
    head_picture.of_record(record, 0, look, title=named).save(target)
    return target


def _check(look: Look, layer: Layer) -> None:
    if look.pool not in POOLS:
        raise ValueError(f"pool: one of {', '.join(POOLS)}, got {look.pool!r}")
    for name, number, count in (("head", look.head, layer.heads), ("sequence", look.sequence, layer.batch)):
        if number is not None and not 0 <= number < count:
            raise IndexError(f"{name}: there are {count}, counted from 0, got {number}")
    for name, part, length in (("queries", look.queries, layer.q_len), ("keys", look.keys, layer.k_len)):
        own = range(length)[part] if isinstance(part, slice) else range(0)
        if not own or own.step != 1:
            raise ValueError(f"{name}: a slice of neighbours among {length}, not empty, got {part!r}")

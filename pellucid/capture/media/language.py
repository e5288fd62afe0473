"""Language models that are shown pictures: which of their tokens stand for which patches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from pellucid.capture.media.pictures import turn_of
from pellucid.capture.media.towers import Grid, Looked
from pellucid.capture.media.turn import Turn
from pellucid.record.images import Image

# The names in the configuration of the ids that stand for patches, in the order in which the tower is asked.
_TOKENS = {
    "llava": ("image_token_id",),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), ("image_token_id", "video_token_id")),
}


def placeholders(config: Any) -> tuple[int, ...] | None:
    """The ids of the tokens that stand for patches; None for a model that is not known."""
    names = _TOKENS.get(getattr(config, "model_type", ""))
    return None if names is None else tuple(getattr(config, name, -1) for name in names)


def shown(ids: Tensor | None, tokens: Sequence[int], looked: list[Looked]) -> Turn | None:
    """The call of a language model that reads ids among which patches stand, None where it is not certain which.

    Args:
        ids: [batch, length].
        tokens: the ids that stand for patches.
        looked: what the tower was called with, once for each kind of token that is there.

    """
    if ids is None or ids.ndim != 2:
        return None
    there = [token for token in tokens if bool((ids == token).any())]
    if not there or len(there) != len(looked):
        return None
    images: list[Image] = []
    for token, one in zip(there, looked, strict=True):
        found = _placed(ids, token, one)
        if found is None:
            return None
        images += found
    return turn_of(len(ids), ids.shape[1], images)


def _placed(ids: Tensor, token: int, looked: Looked) -> list[Image] | None:
    """Where each picture of a tower is: patches fill their tokens in order, sequence by sequence."""
    ways = [_filled(ids, token, looked.grids, lead) for lead in {0, looked.special}]
    found = [way for way in ways if way is not None]
    return found[0] if len(found) == 1 else None


def _filled(ids: Tensor, token: int, grids: list[Grid], lead: int) -> list[Image] | None:
    """The same if so many special tokens of the tower lead each picture."""
    lengths = [grid.rows * grid.columns + lead for grid in grids]
    copies, rest = divmod(int((ids == token).sum()), sum(lengths))
    if rest or not copies or len(ids) % copies:
        return None
    once = ids[::copies]
    if not torch.equal(once.repeat_interleave(copies, 0), ids):  # beams and samples begin as copies of a sequence
        return None
    places = (once == token).nonzero().cpu()  # [patches, 2]: sequence, position
    images = []
    for grid, (start, stop) in zip(grids, pairwise(accumulate(lengths, initial=0)), strict=True):
        sequences, positions = places[start + lead : stop].unbind(1)
        if not bool((sequences == places[start, 0]).all()):
            return None
        images += [_image(grid, positions, int(sequences[0]) * copies + copy) for copy in range(copies)]
    return images


def _image(grid: Grid, positions: Tensor, sequence: int) -> Image:
    first, last = int(positions[0]), int(positions[-1])
    is_range = last - first == len(positions) - 1
    return Image(
        grid.rows,
        grid.columns,
        (first, last + 1) if is_range else None,
        positions=None if is_range else positions,
        sequence=sequence,
        picture=grid.picture,
        name=grid.name,
    )

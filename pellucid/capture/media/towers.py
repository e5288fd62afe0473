"""Vision towers of transformers: the grid of patches that each makes of its input.

A tower that is not known here has no grid: it may join, drop or shuffle patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid.capture.media.pictures import picture_of, turn_of
from pellucid.capture.media.turn import Turn
from pellucid.record.images import Image

Inputs = Mapping[str, Any]


class Grid(NamedTuple):
    """One picture, or one frame of a film, as a language model is given it."""

    rows: int  # of its tokens
    columns: int
    picture: Tensor | None
    name: str


class Looked(NamedTuple):
    """What a vision tower was called with."""

    ways: list[list[Turn]]  # of its own layers
    grids: list[Grid]
    special: int  # tokens before the patches


Tower = Callable[[Inputs], Looked | None]


def tower_of(config: Any) -> Tower | None:
    """What tells of a tower, by its configuration, what it was called with; None for one that is not known."""
    kind = getattr(config, "model_type", None)
    if kind in _PACKED:
        return partial(_packed, config)
    return partial(_plain, config, _SPECIAL[kind](config)) if kind in _SPECIAL else None


# Towers whose every picture is a sequence of the batch, patches row by row after the special tokens.


def _registers(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


_SPECIAL: dict[str | None, Callable[[Any], int]] = {
    "vit": lambda config: 1,
    "vit_msn": lambda config: 1,
    "deit": lambda config: 2,  # CLS and distillation
    "dinov2": lambda config: 1,
    "dinov2_with_registers": _registers,
    "dinov3_vit": _registers,
    "clip_vision_model": lambda config: 1,
    "siglip_vision_model": lambda config: 0,
}


def _plain(config: Any, special: int, inputs: Inputs) -> Looked | None:
    pixels, size = inputs.get("pixel_values"), config.patch_size
    high, wide = (size, size) if isinstance(size, int) else size
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[2] < high or pixels.shape[3] < wide:
        return None
    rows, columns = pixels.shape[2] // high, pixels.shape[3] // wide
    length = special + rows * columns
    grids = [
        Grid(rows, columns, picture_of(one, rows * high, columns * wide), f"image {number}")
        for number, one in enumerate(pixels.detach())
    ]
    images = [
        Image(rows, columns, (special, length), sequence=number, picture=grid.picture, name=grid.name)
        for number, grid in enumerate(grids)
    ]
    return Looked([[turn_of(len(images), length, images)]], grids, special)


# Towers of Qwen-VL: all pictures in one sequence, in which each frame is attended in for itself, patches in blocks of
# those that are merged afterwards, and blocks, where there are windows, window by window.

_PACKED = {"qwen2_vl_vision", "qwen2_5_vl_vision", "qwen3_vl_vision", "qwen3_vl_moe_vision"}
_PACKED |= {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"}  # as older versions call the towers too


def _packed(config: Any, inputs: Inputs) -> Looked | None:
    pixels, sizes = inputs.get("hidden_states"), inputs.get("grid_thw")
    if not isinstance(pixels, Tensor) or not isinstance(sizes, Tensor) or pixels.ndim != 2 or sizes.ndim != 2:
        return None
    merge, listed = config.spatial_merge_size, [list(map(int, size)) for size in sizes.tolist()]
    fits = all(rows % merge == columns % merge == 0 for _, rows, columns in listed)
    if not fits or sum(count * rows * columns for count, rows, columns in listed) != len(pixels):
        return None
    frames, windows, grids, first = [], [], [], 0
    for number, (count, rows, columns) in enumerate(listed):
        for frame in range(count):
            own = pixels[first : first + rows * columns].detach()
            first += rows * columns
            name = f"image {number}" + (f", frame {frame}" if count > 1 else "")
            picture = _unpacked(own, rows, columns, config)
            grids.append(Grid(rows // merge, columns // merge, picture, name))
            blocks = _windows(rows, columns, config)
            frames.append(_turn(_whole(blocks, rows, columns), picture, name))
            windows += _window_turns(blocks, picture, name, config.patch_size)
    return Looked([frames, windows] if hasattr(config, "window_size") else [frames], grids, 0)


class _Window(NamedTuple):
    """A part of a frame whose patches look at one another."""

    top: int
    left: int
    order: Tensor  # int64 [rows, columns], the place of each patch in the window


def _windows(rows: int, columns: int, config: Any) -> list[_Window]:
    """The windows of a frame, in their order; the whole of it where a tower has none."""
    merge = config.spatial_merge_size
    size = getattr(config, "window_size", 0) // merge // config.patch_size * merge or max(rows, columns)
    return [
        _Window(top, left, _in_blocks(min(size, rows - top), min(size, columns - left), merge))
        for top in range(0, rows, size)
        for left in range(0, columns, size)
    ]


def _in_blocks(rows: int, columns: int, merge: int) -> Tensor:
    """The place of each patch where blocks of merge x merge follow one another row by row, int64 [rows, columns]."""
    places = torch.arange(rows * columns, device="cpu").view(rows // merge, columns // merge, merge, merge)
    return places.transpose(1, 2).reshape(rows, columns)


def _whole(windows: list[_Window], rows: int, columns: int) -> Tensor:
    """The place of each patch of a frame, window after window, int64 [rows, columns]."""
    whole = torch.empty(rows, columns, dtype=torch.int64, device="cpu")
    first = 0
    for top, left, order in windows:
        whole[top : top + order.shape[0], left : left + order.shape[1]] = first + order
        first += order.numel()
    return whole


def _turn(order: Tensor, picture: Tensor | None, name: str) -> Turn:
    rows, columns = order.shape
    return turn_of(1, order.numel(), [Image(rows, columns, positions=order, picture=picture, name=name)])


def _window_turns(windows: list[_Window], picture: Tensor | None, name: str, patch: int) -> list[Turn]:
    """A turn for each window, over its part of the picture."""
    if len(windows) == 1:
        return [_turn(windows[0].order, picture, name)]
    turns = []
    for number, (top, left, order) in enumerate(windows):
        high, wide = (
            slice(first * patch, (first + count) * patch) for first, count in zip((top, left), order.shape, strict=True)
        )
        turns.append(_turn(order, None if picture is None else picture[high, wide], f"{name}, window {number}"))
    return turns


def _unpacked(pixels: Tensor, rows: int, columns: int, config: Any) -> Tensor | None:
    """The picture of a frame's patches, which are in blocks, each [channels, times, height, width]."""
    merge, size, times = config.spatial_merge_size, config.patch_size, config.temporal_patch_size
    channels, rest = divmod(pixels.shape[1], times * size * size)
    if rest:
        return None
    blocks = pixels.view(rows // merge, columns // merge, merge, merge, channels, times, size, size)[:, :, :, :, :, 0]
    whole = blocks.permute(4, 0, 2, 5, 1, 3, 6).reshape(channels, rows * size, columns * size)
    return picture_of(whole, *whole.shape[1:])

"""What a model was shown, as a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.capture.media.turn import Turn
from pellucid.record.images import Image

NOTE = (
    "images: each picture is the model's own input, its smallest number black and its largest white, for what it was "
    "normalised by is not known"
)


def picture_of(pixels: Tensor, rows: int, columns: int) -> Tensor | None:
    """The picture that is in a model's input, uint8 [height, width, 3], as far as its grid of patches goes.

    Args:
        pixels: [channels, height, width], normalised.
        rows: of the picture, in pixels.
        columns: of the picture, in pixels.

    Returns:
        None where that is no picture: other channels than 1 or 3, or numbers that are not finite.

    """
    seen = pixels[:, :rows, :columns].float()
    if seen.shape[0] not in (1, 3) or not bool(torch.isfinite(seen).all()):
        return None
    low, high = seen.amin(), seen.amax()
    scaled = (seen - low) * (255 / (high - low).clamp_min(1e-12))
    return scaled.round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu()


def turn_of(batch: int, length: int, images: list[Image]) -> Turn:
    """A call in whose sequences pictures are."""
    return Turn(batch, length, [*images], NOTE if any(image.picture is not None for image in images) else None)

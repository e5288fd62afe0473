"""What the page is told of pictures and sound: where their patches and frames lie, and the pixels when it asks."""

from __future__ import annotations

from typing import Any

from pellucid.record.belonging import Located, axes
from pellucid.record.record import Record
from pellucid.viewer.browser.asked import Asked, RefusedError
from pellucid.viewer.browser.values import Answer, values

Json = dict[str, Any]


def images(record: Record) -> list[Json]:
    """The pictures of a record, as `api/info` lists them."""
    return [
        {
            "index": index,
            "name": image.name,
            "sequence": image.sequence,
            "axes": _axes(image, record),
            "positions": image.patches.flatten().tolist(),
            "rows": image.rows,
            "columns": image.columns,
            "has_picture": image.picture is not None,
            "height": 0 if image.picture is None else image.picture.shape[0],
            "width": 0 if image.picture is None else image.picture.shape[1],
        }
        for index, image in enumerate(record.images)
    ]


def frames(record: Record) -> list[Json]:
    """The stretches of sound of a record, as `api/info` lists them."""
    return [
        {
            "sequence": one.sequence,
            "axes": _axes(one, record),
            "start": one.limits[0],
            "stop": None if one.segment is None else one.limits[1],
            "seconds": one.seconds_per_key,
            "offset": one.offset,
        }
        for one in record.frames
    ]


def _axes(item: Located, record: Record) -> dict[str, str]:
    """By the number of each layer on which something lies: on its queries, keys or both."""
    numbers = {name: number for number, name in enumerate(record.layers)}
    others = record.outlines()
    found = {numbers[layer.name]: axes(item, layer, others) for layer in others}
    return {str(number): "both" if len(on) == 2 else on[0] for number, on in found.items() if on}


def picture(record: Record, asked: Asked) -> Answer:
    """The pixels of one picture, bytes of red, green and blue. Raises RefusedError."""
    if not record.images:
        raise RefusedError("image: the record has none", 404)
    found = record.images[asked.whole("image", 0, len(record.images) - 1, 0)].picture
    if found is None:
        raise RefusedError("image: the record has its grid of patches alone, and no picture", 404)
    return values(found, "u8")

"""Exact weights of one record's layer as the page is sent them: natural logarithms, little-endian, with their shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pellucid.record.layer import Layer

MOST = 1 << 22  # values of one answer


@dataclass(frozen=True)
class Answer:
    """What a request is answered with.

    Attributes:
        body: bytes.
        media_type: of the body.
        status: of HTTP.
        headers: by name; `X-Shape`, `X-Dtype` and `X-Exact` of values.

    """

    body: bytes
    media_type: str = "application/octet-stream"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Answering(Protocol):
    """Whatever a page asks: of records, or of a profile.

    Attributes:
        index: the page's first file.

    """

    index: str

    def get(self, path: str, query: Mapping[str, str]) -> Answer:
        """The answer to a request."""

    def close(self) -> None:
        """Let go of what answers were made of; nothing is asked any more."""


_DTYPES = {"f16": torch.float16, "f32": torch.float32, "i32": torch.int32, "u8": torch.uint8}


def values(numbers: Tensor, dtype: str, exact: bool | None = None) -> Answer:
    """An answer of numbers."""
    plain = np.ascontiguousarray(numbers.detach().cpu().to(_DTYPES[dtype]).numpy())
    body = plain.astype(plain.dtype.newbyteorder("<"), copy=False).tobytes()
    headers = {"X-Shape": ",".join(map(str, numbers.shape)), "X-Dtype": dtype}
    if exact is not None:
        headers["X-Exact"] = "exact" if exact else "pooled"
    return Answer(body, headers=headers)


def logs(weights: Tensor, dtype: str, exact: bool) -> Answer:
    """An answer of weights, as their natural logarithms."""
    return values(weights.log(), dtype, exact)


def exact(layer: Layer, sequence: int, heads: list[int], queries: slice, keys: slice, over: str) -> Tensor:
    """The weights of a window, of several heads their mean or largest, float32 [queries, keys]; NaN: padding.

    Args:
        layer: of a record.
        sequence: its number in the batch, which alone is computed.
        heads: places among the layer's heads.
        queries: rows of the layer.
        keys: neighbours.
        over: "mean" or "max".

    """
    own, place = (layer.of_sequence(sequence), 0) if layer.parts else (layer, sequence)
    joined = joined_heads(own.weights(queries=queries, keys=keys, heads=heads)[place].float(), over)
    padding = own.padding.queries
    if padding is not None:
        joined = joined.masked_fill(padding[place, queries].to(joined.device)[:, None], torch.nan)
    return joined


def joined_heads(by_head: Tensor, over: str) -> Tensor:
    """Several heads as one: their mean or the largest of each pair."""
    return by_head.mean(0) if over == "mean" else by_head.amax(0)

"""A number of every head of every layer as one tensor, as training exchanges it between machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from pellucid import legible
from pellucid.record.layer import Layer

if TYPE_CHECKING:
    from pellucid.record.record import Record


def max_scores(record: Record) -> Tensor:
    """The largest score of each head, [layers, heads]; see `Record.max_scores`."""
    modules: dict[str, Tensor] = {}
    for layer in record.values():
        name, found = layer.name.split("#")[0], _of_layer(layer)
        modules[name] = modules[name].maximum(found) if name in modules else found
    if not modules:
        return torch.empty(0, 0, device="cpu")
    most = max(map(len, modules.values()))
    return torch.stack([pad(found, (0, most - len(found)), value=-torch.inf) for found in modules.values()])


def _of_layer(layer: Layer) -> Tensor:
    if "head_max_scores" in layer.readings:
        return layer.readings["head_max_scores"]
    if "max_scores" not in layer.readings:
        raise ValueError(
            f"max_scores: {legible.name(layer.name)} has not read them; watch the model with MaxScore(per_head=True)"
        )
    rows: Tensor = layer.readings["max_scores"]
    if layer.padding.queries is not None:
        rows = rows.masked_fill(layer.padding.queries[:, None], -torch.inf)
    return rows.transpose(0, 1).flatten(1).amax(1)

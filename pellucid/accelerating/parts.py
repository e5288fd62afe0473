"""Parts of an accelerated model whose class is another one meanwhile."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.accelerating.row_linear import RowLinear
from pellucid.capture.attending import sessions_of, unseen
from pellucid.capture.called import own_class, set_class
from pellucid.capture.packed import packed_apart


class PackedEncoder(nn.TransformerEncoder):
    """nn.TransformerEncoder, which packs a padded batch as ever: that is torch's alone, and is left to torch."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The encoder's output, 0 at padding where torch gives that."""
        own = partial(super().forward, *args, **kwargs)
        if torch.compiler.is_compiling() or sessions_of(self) or not packed_apart(self, args, kwargs):
            return own()
        return unseen(own)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: RowLinear, nn.TransformerEncoder: PackedEncoder}


def take_parts(model: nn.Module) -> None:
    """Give the model's parts the classes that they have while it is accelerated."""
    _replace_classes(model, KINDS)


def leave_parts(model: nn.Module) -> None:
    """Undo `take_parts`."""
    _replace_classes(model, {new: old for old, new in KINDS.items()})


def _replace_classes(model: nn.Module, kinds: dict[type[nn.Module], type[nn.Module]]) -> None:
    for module in model.modules():
        if (kind := kinds.get(own_class(module))) is not None:
            set_class(module, kind)

"""torch's encoder where it packs a padded batch: its output is 0 at padding, and as long as the longest sequence.

It does so in evaluation, where nobody looks at its functions. Looked at, it would compute numbers at padding, so its
output is computed by itself. Whether it packs is its own decision; here it is only known where it never does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def packed_apart(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call may be one of an encoder that packs its batch."""
    if not isinstance(module, nn.TransformerEncoder) or not getattr(module, "use_nested_tensor", False):
        return False
    padding = kwargs.get("src_key_padding_mask", args[2] if len(args) > 2 else None)
    return padding is not None and not module.training and not _has_gradients(module)


def _has_gradients(module: nn.Module) -> bool:
    return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in module.parameters())

"""Attention that a model calls as a function of torch or of Pellucid."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as torch_sdpa

from pellucid import functional
from pellucid.arguments import Arguments
from pellucid.capture.attending import beside
from pellucid.capture.sources.base import Source
from pellucid.capture.sources.described import attended, call_of, led, left_alone

TORCHS = Arguments._fields[:8]  # the arguments of torch's function


def scaled_dot_product_attention(module: nn.Module, *args: Any, **arguments: Any) -> Tensor:
    """What torch.nn.functional.scaled_dot_product_attention gives."""
    own = partial(torch_sdpa, *args, **arguments)
    try:
        asked = _asked(*args, **arguments)
    except TypeError as error:
        return left_alone(module, own, error)
    return led(module, own, asked)


def _asked(*args: Any, **arguments: Any) -> Arguments:
    """The arguments of torch's function. Raises TypeError for others, sinks among them."""
    if len(args) > len(TORCHS) or not arguments.keys() <= set(TORCHS):
        raise TypeError(f"torch's takes {', '.join(TORCHS)}")
    return Arguments(*args, **arguments)


def attention(module: nn.Module, *args: Any, **arguments: Any) -> Tensor:
    """What pellucid.attention gives."""
    return attended(module, Arguments(*args, **arguments))


def observe(module: nn.Module, *args: Any, readouts: Any = None, **arguments: Any) -> Any:
    """What pellucid.observe gives: the model's own observation, beside that of whoever watches.

    Args:
        module: what attends.
        *args: those of `pellucid.observe`, in order.
        readouts: see `pellucid.observe`.
        **arguments: the others, by name.

    """
    own = partial(functional.observe, *args, readouts=readouts, **arguments)
    return beside(module, own, partial(call_of, module, Arguments(*args, **arguments)))


TORCH = Source({torch_sdpa: scaled_dot_product_attention, functional.attention: attention, functional.observe: observe})

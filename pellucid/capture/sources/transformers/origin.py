"""In whose place Pellucid attends in a model of transformers: the library's SDPA or FlexAttention, or eager attention.

They differ where no mask is given: SDPA then asks whether the module is causal, the others look at every key. And they
differ in the masks that the library makes for them: bool and often none, numbers to be added, or blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

Origin = str | None  # a name of LED; None where it is not known

LED = ("eager", "sdpa", "flex_attention")  # what is stood in for; "eager" is in each model's own file
NAME = "pellucid"
FOR_EAGER = "pellucid_eager"  # the name that stands for a configuration which was eager
OWN_NAMES = (NAME, FOR_EAGER)
SETTING = "_attn_implementation_internal"

_found: dict[type, str] = {}


def origin_of(config: Any) -> Origin:
    """What Pellucid stands for, by its own names, in the parts of a model of a configuration; None if not known."""
    if config is None:
        return None
    if getattr(config, SETTING, None) == FOR_EAGER:
        return "eager"
    return supported(config)


def supported(config: Any) -> Origin:
    """What the library gives to models of a configuration that name nothing; None if that is not known."""
    kind = type(config)
    if kind not in _found and torch.compiler.is_compiling():  # not where the model was accelerated, or has run before
        torch.compiler.disable(_look_up)(kind)
    elif kind not in _found:
        _look_up(kind)
    return _found.get(kind)


def _look_up(kind: type) -> None:
    from transformers import PreTrainedModel

    models = list(_derived(PreTrainedModel))
    package = kind.__module__.rpartition(".")[0]
    own = [model for model in models if model.config_class is kind]
    alike = own or [model for model in models if package and model.__module__.rpartition(".")[0] == package]
    if alike:  # else its models are not loaded yet
        _found[kind] = "sdpa" if any(model._supports_sdpa for model in alike) else "eager"


def _derived(kind: Any) -> Iterator[Any]:
    for own in kind.__subclasses__():
        yield own
        yield from _derived(own)


def mask_function_of(origin: Origin) -> Callable[..., Any]:
    """The library's function that makes tensors of masks for an origin."""
    from transformers import masking_utils

    return masking_utils.eager_mask if origin == "eager" else masking_utils.sdpa_mask

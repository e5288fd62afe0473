"""A model class built small: its configuration with few layers and narrow ones, and random weights that matter."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

VOCABULARY = 99
MOST_PARAMETERS = 40_000_000
Rule = tuple[str, Callable[[int], int]]


def _at_most(limit: int) -> Callable[[int], int]:
    return lambda value: min(value, limit)


# What is met first holds. Layers and words alone leave all widths fitting each other.
FEWER: tuple[Rule, ...] = (
    (r"(^|_)vocab", _at_most(VOCABULARY)),
    (r"codebook_size|num_codes$|num_embeddings$", _at_most(VOCABULARY)),
    (r"first_k_dense_replace|num_nextn|num_kv_shared|shared_layers", _at_most(1)),
    (r"(layers|depth|blocks|n_layer|repeats)$|num_(\w+_)?layers", _at_most(2)),
    (r"sliding_window$|attention_window|local_attention$|chunk_size$", _at_most(4)),
    (r"num_queries$|num_query_tokens$|num_latents$", _at_most(7)),
    (r"max_position|n_positions|max_(source|target)_positions|n_ctx", _at_most(256)),
    (r"experts$", _at_most(4)),
    (r"per_tok|moe_top|top_k|topk", _at_most(2)),
)
NARROWER: tuple[Rule, ...] = (
    *FEWER,
    (r"kv_heads|key_value_heads|num_kv|n_group|n_kv", _at_most(2)),
    (r"heads?$|num_attention_heads", _at_most(4)),
    (r"head_(dim|size)$|d_kv|kv_channels|v_head_dim|nope", _at_most(8)),
    (r"lora_rank|low_rank|lora_dim", _at_most(16)),
    (r"intermediate|ffn|d_ff|inner|mlp_dim|feedforward", _at_most(37)),
    (r"(hidden_size|d_model|n_embd|embed_dim|embedding_size|width|hidden_dim|^dim|_dim|projection)$", _at_most(32)),
    (r"image_size|crop_size|^size$", _at_most(32)),
    (r"patch_size$", _at_most(8)),
    (r"mel_bins|num_mel", _at_most(8)),
)
DERIVED = frozenset((
    "architectures", "transformers_version", "torch_dtype", "dtype", "_attn_implementation", "out_features",
    "out_indices", "stage_names", "per_layer_config",
))  # fmt: skip


class NotBuiltError(Exception):
    """A class that cannot be built here, and why."""


def each_size(kind: Any) -> Iterator[Any]:
    """Models of a class, the smallest first; those that cannot be built are left out, but for the last's error."""
    error: Exception | None = None
    found = False
    for rules in (NARROWER, FEWER):
        try:
            model = _of(kind, rules)
        except Exception as caught:  # whatever a foreign class raises is a reason
            error = caught
            continue
        found = True
        yield model
    if not found:
        raise NotBuiltError(told(error))


def told(error: BaseException | None) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def _of(kind: Any, rules: tuple[Rule, ...]) -> Any:
    config = kind.config_class
    if not inspect.isclass(config):
        raise NotBuiltError(f"its configuration is {config!r}")
    whole = config().to_dict()
    small = _shrunk(whole, rules, _Words())
    made = config.from_dict(small | {"experts_implementation": "eager"})
    if getattr(made, "pad_token_id", 0) is None:
        made.pad_token_id = 0
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in kind(made).parameters())
    if size > MOST_PARAMETERS:
        raise NotBuiltError(f"{size} parameters")
    torch.manual_seed(0)
    model = kind(made).double().eval().requires_grad_(False)
    _weigh(model)
    return model


class _Words:
    """Numbers of special words, each kept apart from the others below the vocabulary's size."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}

    def number(self, value: int) -> int:
        if 0 <= value < VOCABULARY // 3:
            return value
        return self.numbers.setdefault(value, VOCABULARY - 1 - len(self.numbers))


def _shrunk(settings: dict[str, Any], rules: tuple[Rule, ...], words: _Words) -> dict[str, Any]:
    """The settings, small; what follows from others is left out, to be found anew."""
    kept = {name: value for name, value in settings.items() if name not in DERIVED}
    return {name: _one(name, value, rules, words) for name, value in kept.items()}


def _one(name: str, value: Any, rules: tuple[Rule, ...], words: _Words) -> Any:
    if name == "prediction_length":
        return value or 5
    if isinstance(value, dict):
        return _shrunk(value, rules, words) if name.endswith("config") else value
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int) and re.search(r"token_(id|index)$", name):
        return words.number(value)
    if isinstance(value, int) and value > 0:
        return next((rule(value) for pattern, rule in rules if re.search(pattern, name)), value)
    if isinstance(value, list) and re.search(r"layer_types$|layers_block_type|mlp_layer_types|pattern$", name):
        return _kinds(value)
    return value


def _kinds(types: list[Any]) -> list[Any]:
    """Two layers, of different kinds if there are."""
    if len(types) < 2 or not all(isinstance(kind, str) for kind in types):
        return types
    other = next((kind for kind in types if kind != types[0]), types[0])
    return [types[0], other]


def _weigh(model: nn.Module) -> None:
    """Random weights so large that it matters where a head looks."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if parameter.ndim >= 2:
                parameter.copy_(noise * 1.5 / max(1, parameter[0].numel()) ** 0.5)
            else:
                with contextlib.suppress(RuntimeError):
                    parameter.copy_(torch.nan_to_num(parameter) + 0.1 * noise)

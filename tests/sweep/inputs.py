"""Inputs for a model, made from the signature of its forward and its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tests.sweep.shrinking import VOCABULARY

BATCH, LENGTH, TARGET = 2, 13, 11
Made = Callable[[Any], Any]


def _setting(config: Any, *names: str, default: Any = None) -> Any:
    """The first of some settings that a configuration, or a part of it, has."""
    parts = [config, *(part for part in vars(config).values() if hasattr(part, "to_dict"))]
    for name in names:
        for part in parts:
            value = getattr(part, name, None)
            if isinstance(value, int | float | tuple | list) and not isinstance(value, bool) and value:
                return value
    return default


def _noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def words(config: Any, length: int = LENGTH, batch: int = BATCH) -> Tensor:
    """Words without special ones, int64 [batch, length]."""
    high = min(VOCABULARY // 2, int(_setting(config, "vocab_size", default=VOCABULARY)))
    return torch.randint(min(34, high - 2), high, (batch, length), generator=torch.Generator().manual_seed(length))


def _size(config: Any) -> tuple[int, int]:
    size = _setting(config, "image_size", "crop_size", "vision_image_size", default=32)
    sizes = list(size.values()) if isinstance(size, dict) else size
    return (sizes, sizes) if isinstance(sizes, int) else (sizes[0], sizes[-1])


def _image(config: Any) -> Tensor:
    channels = _setting(config, "num_channels", "in_channels", "in_chans", default=3)
    return _noise(BATCH, channels if isinstance(channels, int) else 3, *_size(config))


def _video(config: Any) -> Tensor:
    frames = _setting(config, "num_frames", "frames_per_clip", default=4)
    return _image(config)[:, None].repeat(1, frames, 1, 1, 1)


def _features(config: Any) -> Tensor:
    bins = int(_setting(config, "num_mel_bins", "input_feat_per_channel", "feature_size", "input_dim", default=8))
    length = 2 * int(_setting(config, "max_source_positions", default=40))
    return _noise(BATCH, bins, length) if hasattr(config, "max_source_positions") else _noise(BATCH, 40, bins)


def _boxes(config: Any) -> Tensor:
    corner = torch.arange(LENGTH)[None, :, None] * 3 + torch.tensor([0, 0, 20, 30])
    return corner.expand(BATCH, -1, -1).clone()


def _width(config: Any) -> int:
    return int(_setting(config, "hidden_size", "d_model", "n_embd", "embed_dim", "dim", default=32))


def _context(config: Any) -> int:
    lags = _setting(config, "lags_sequence", default=[1])
    return int(_setting(config, "context_length", default=16)) + max(lags)


MAKERS: dict[str, Made] = {
    "input_ids": words,
    "decoder_input_ids": lambda config: words(config, TARGET),
    "inputs_embeds": lambda config: _noise(BATCH, LENGTH, _width(config)),
    "hidden_states": lambda config: _noise(BATCH, LENGTH, _width(config)),
    "encoder_hidden_states": lambda config: _noise(BATCH, TARGET, _width(config)),
    "pixel_values": _image,
    "pixel_values_videos": _video,
    "input_features": _features,
    "input_values": lambda config: _noise(BATCH, 4000),
    "bbox": _boxes,
    "visual_embeds": lambda config: _noise(BATCH, 5, int(_setting(config, "visual_embedding_dim", default=32))),
    "visual_feats": lambda config: _noise(BATCH, 5, int(_setting(config, "visual_feat_dim", default=32))),
    "visual_pos": lambda config: _noise(BATCH, 5, 4),
    "visual_attention_mask": lambda config: torch.ones(BATCH, 5),
    "past_values": lambda config: _noise(BATCH, _context(config)).abs(),
    "past_time_features": lambda config: _noise(
        BATCH, _context(config), int(_setting(config, "num_time_features", default=0))
    ),
    "past_observed_mask": lambda config: torch.ones(BATCH, _context(config)),
    "future_values": lambda config: _noise(BATCH, int(_setting(config, "prediction_length", default=5))).abs(),
    "future_time_features": lambda config: _noise(
        BATCH,
        int(_setting(config, "prediction_length", default=5)),
        int(_setting(config, "num_time_features", default=0)),
    ),
    "pixel_mask": lambda config: torch.ones(BATCH, *_size(config), dtype=torch.int64),
    "states": lambda config: _noise(BATCH, 5, int(_setting(config, "state_dim", default=17))),
    "actions": lambda config: _noise(BATCH, 5, int(_setting(config, "act_dim", default=4))),
    "rewards": lambda config: _noise(BATCH, 5, 1),
    "returns_to_go": lambda config: _noise(BATCH, 5, 1),
    "timesteps": lambda config: torch.arange(5).expand(BATCH, 5),
    "query_embeds": lambda config: _noise(BATCH, 7, _width(config)),
    "spatial_shapes": lambda config: torch.tensor([[4, 4]] * BATCH),
    "grid_thw": lambda config: torch.tensor([[1, 4, 4], [1, 2, 6]]),
    "image_grid_thw": lambda config: torch.tensor([[1, 4, 4], [1, 4, 4]]),
    "position_ids": lambda config: torch.arange(LENGTH).expand(BATCH, LENGTH),
}
EXTRAS = (
    (),
    ("decoder_input_ids",),
    ("pixel_values",),
    ("input_ids", "decoder_input_ids"),
    ("input_ids", "pixel_values"),
    ("input_ids", "bbox", "pixel_values"),
    ("input_ids", "visual_feats", "visual_pos"),
    ("input_ids", "visual_embeds"),
    ("past_time_features", "past_observed_mask", "future_values", "future_time_features"),
    ("states", "actions", "rewards", "returns_to_go", "timesteps"),
    ("input_features", "decoder_input_ids"),
    ("inputs_embeds",),
    ("hidden_states",),
)


def guesses(model: Any, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Inputs that the model may take, the likeliest first."""
    parameters = inspect.signature(model.forward).parameters
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    main = [model.main_input_name] if isinstance(model.main_input_name, str) else model.main_input_name
    seen: list[set[str]] = []
    for first in (main, []):
        for extra in EXTRAS:
            names = {name for name in (*first, *needed, *extra) if name in parameters}
            if not names or names in seen or any(name not in MAKERS and name != "attention_mask" for name in names):
                continue
            seen.append(names)
            yield {name: _of(name, model, dtype) for name in sorted(names - {"attention_mask"})}


def _of(name: str, model: Any, dtype: torch.dtype) -> Any:
    value = MAKERS[name](model.config)
    if "MultipleChoice" in type(model).__name__:  # [batch, choices, ...]
        value = value[:, None].repeat(1, 3, *(1,) * (value.ndim - 1))
    return value.to(dtype) if value.is_floating_point() else value


def missing(model: Any) -> list[str]:
    """What the model's forward needs and nothing here makes."""
    parameters = inspect.signature(model.forward).parameters
    return [
        n
        for n, p in parameters.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and n not in MAKERS
    ]


def padded(model: Any, inputs: dict[str, Any], side: str) -> dict[str, Any] | None:
    """The inputs with an attention mask that leaves four words of the first sequence out; None if it takes none."""
    ids = inputs.get("input_ids")
    if ids is None or "attention_mask" not in inspect.signature(model.forward).parameters:
        return None
    mask = torch.ones(ids.shape, dtype=torch.int64)
    mask[0, ..., slice(0, 4) if side == "left" else slice(-4, None)] = 0
    word = getattr(model.config.get_text_config(), "pad_token_id", None)  # by which a classifier finds the last word
    own = ids if word is None else ids.masked_fill(mask == 0, word)
    return inputs | {"input_ids": own, "attention_mask": mask}

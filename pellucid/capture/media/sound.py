"""Encoders of sound of transformers: how long each of their keys is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from pellucid.capture.media.towers import Inputs
from pellucid.capture.media.turn import Turn
from pellucid.record.frames import Frames

_RATE = 16_000  # samples a second
_MEL = 0.01  # seconds from one of Whisper's spectra to the next
_OF_WAVES = {"wav2vec2", "wav2vec2-conformer", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio"}
NOTE = f"frames: {_RATE:,} samples a second are assumed, which the model's configuration does not say"


Ear = Callable[[Inputs], Turn | None]


def ear_of(module: nn.Module) -> Ear | None:
    """What tells of an encoder what it was called with; None for one that is not known."""
    config: Any = getattr(module, "config", None)
    kind = getattr(config, "model_type", None)
    if kind == "whisper" and isinstance(getattr(module, "conv2", None), nn.Conv1d):
        made: Any = module
        steps = [(conv.kernel_size[0], conv.stride[0], conv.padding[0]) for conv in (made.conv1, made.conv2)]
        return partial(_heard, "input_features", 3, steps, _MEL, None)
    if kind in _OF_WAVES and hasattr(module, "feature_extractor"):
        steps = [(kernel, stride, 0) for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True)]
        return partial(_heard, "input_values", 2, steps, 1 / _RATE, NOTE)
    return None


def _heard(
    name: str, dimensions: int, steps: Iterable[tuple[int, int, int]], seconds: float, note: str | None, inputs: Inputs
) -> Turn | None:
    """What the layers of the encoder attend in.

    Args:
        name: of the input.
        dimensions: that it has; the last is time.
        steps: kernel, stride and padding of each convolution over it.
        seconds: from one number of the input to the next.
        note: what is assumed.
        inputs: by name.

    """
    sound = inputs.get(name)
    if not isinstance(sound, Tensor) or sound.ndim != dimensions:
        return None
    length = sound.shape[-1]
    for kernel, stride, padding in steps:
        length = (length + 2 * padding - kernel) // stride + 1
    per_key = seconds * math.prod(stride for _, stride, _ in steps)
    if length < 1:
        return None
    return Turn(len(sound), length, [Frames(seconds_per_key=per_key, segment=(0, length), source=True)], note)

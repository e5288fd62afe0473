"""A model on disk: one safetensors file, weights in float16, its words and sizes in the file's metadata."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pellucid.lessons.model.decoder import Decoder, Sizes

FOLDER = Path(__file__).parent
TRAINED_BY = "python -m pellucid.lessons.train writes one."


def save_decoder(model: Decoder, path: str | os.PathLike[str]) -> None:
    """Write the model to a file, its weights rounded to float16."""
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"words": json.dumps(model.words), "sizes": json.dumps(asdict(model.sizes))}
    unfinished = Path(f"{os.fspath(path)}.unfinished")
    unfinished.write_bytes(save(tensors, metadata=metadata))
    unfinished.replace(path)


def load_decoder(path: str | os.PathLike[str]) -> Decoder:
    """The model from a file, or by its name one that ships with the package, in float32 and ready to read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else.
    """
    place = Path(path) if os.fspath(path).endswith(".safetensors") else FOLDER / f"{os.fspath(path)}.safetensors"
    if not place.is_file():
        raise FileNotFoundError(f"path: there is no file {str(place)!r}. {TRAINED_BY}")
    try:
        with safe_open(place, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path: {str(place)!r} is no safetensors file ({error}).") from error
    if not {"words", "sizes"} <= metadata.keys():
        raise ValueError(f"path: {str(place)!r} holds no model of a lesson. {TRAINED_BY}")
    with torch.device("cpu"):  # whatever torch's default is
        model = Decoder(json.loads(metadata["words"]), Sizes(**json.loads(metadata["sizes"])))
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)

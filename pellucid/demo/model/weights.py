"""The model on disk: one safetensors file, weights in float16, its characters and sizes in the file's metadata."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pellucid.demo.model.date_reader import DateReader, Sizes

SHIPPED = Path(__file__).with_name("weights.safetensors")


def save_reader(reader: DateReader, path: str | os.PathLike[str]) -> None:
    """Write the model to a file, its weights rounded to float16."""
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in reader.state_dict().items()}
    metadata = {"characters": reader.vocabulary.characters, "sizes": json.dumps(asdict(reader.sizes))}
    unfinished = Path(f"{os.fspath(path)}.unfinished")
    unfinished.write_bytes(save(tensors, metadata=metadata))
    unfinished.replace(path)


def load_reader(path: str | os.PathLike[str] = SHIPPED) -> DateReader:
    """The model from a file, in float32 and ready to read; without a path, the one that ships with the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no file {str(path)!r}. python -m pellucid.demo.train writes one.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path: {str(path)!r} is no safetensors file ({error}).") from error
    if not {"characters", "sizes"} <= metadata.keys():
        raise ValueError(f"path: {str(path)!r} holds no date reader. python -m pellucid.demo.train writes one.")
    with torch.device("cpu"):  # whatever torch's default is
        reader = DateReader(metadata["characters"], Sizes(**json.loads(metadata["sizes"])))
    reader.load_state_dict(tensors)
    return reader.eval().requires_grad_(False)

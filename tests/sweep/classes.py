"""Which model classes the installed transformers has."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from torch import nn

MODELS = Path(transformers.__file__).parent / "models"
SHARES = 10  # of the classes, of which the plain run takes one


def files() -> list[str]:
    """The names of all files of models."""
    return [
        f"transformers.models.{folder.name}.{file.name}"
        for folder in pkgutil.iter_modules([str(MODELS)])
        for file in pkgutil.iter_modules([str(MODELS / folder.name)])
        if file.name.startswith("modeling_")
    ]


def names() -> list[str]:
    """All classes that can be called, as `file:class`, without importing what has none: read from the text."""
    return [name for file in files() for name in _of_file(file)]


def fixed_share(all_names: list[str]) -> list[str]:
    """The tenth of the classes that the plain run takes: by their names alone, so that it stays the same."""
    return [name for name in all_names if zlib.crc32(name.rpartition(":")[2].encode()) % SHARES == 0]


def load(name: str) -> Any:
    """The class of a name."""
    file, _, kind = name.partition(":")
    return getattr(importlib.import_module(file), kind)


def _of_file(file: str) -> Iterator[str]:
    text = (MODELS / Path(*file.split(".")[2:])).with_suffix(".py").read_text(encoding="utf-8")
    if "PreTrainedModel" not in text:
        return
    try:
        module = importlib.import_module(file)
    except ImportError:  # a package that this file needs is not here
        return
    for name, kind in vars(module).items():
        if inspect.isclass(kind) and kind.__module__ == file and _is_model(kind):
            yield f"{file}:{name}"


def _is_model(kind: type) -> bool:
    """Whether a class is a model that has a forward, not the one that a file's models derive from."""
    is_model = issubclass(kind, transformers.PreTrainedModel) and kind.config_class is not None
    return is_model and kind.forward is not nn.Module.forward

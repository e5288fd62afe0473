"""Which model classes the installed transformers has."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import transformers
from torch import nn

MODELS = Path(transformers.__file__).parent / "models"
CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)
SHARES = 10  # of the classes, of which the plain run takes one


def files() -> list[str]:
    """The names of all files of models."""
    return [
        f"transformers.models.{folder.name}.{file.name}"
        for folder in pkgutil.iter_modules([str(MODELS)])
        for file in pkgutil.iter_modules([str(MODELS / folder.name)])
        if file.name.startswith("modeling_")
    ]


def names(is_chosen: Callable[[str], bool] = lambda name: True) -> list[str]:
    """All classes that can be called, or those that are chosen by their names, as `file:class`."""
    return [name for file in files() for name in _of_file(file, is_chosen)]


def is_of_the_share(name: str) -> bool:
    """Whether a class is of the tenth that the plain run takes: by its name alone, so that it stays the same."""
    return zlib.crc32(name.encode()) % SHARES == 0


def load(name: str) -> Any:
    """The class of a name."""
    file, _, kind = name.partition(":")
    return getattr(importlib.import_module(file), kind)


def _of_file(file: str, is_chosen: Callable[[str], bool]) -> Iterator[str]:
    """Its names are read from its text first: whole files are left alone that have none of the chosen."""
    text = (MODELS / Path(*file.split(".")[2:])).with_suffix(".py").read_text(encoding="utf-8")
    chosen = [name for name in CLASS.findall(text) if is_chosen(name)] if "PreTrainedModel" in text else []
    if not chosen:
        return
    try:
        module = importlib.import_module(file)
    except ImportError:  # a package that this file needs is not here
        return
    for name in chosen:
        kind = getattr(module, name, None)
        if inspect.isclass(kind) and _is_model(kind):
            yield f"{file}:{name}"


def _is_model(kind: type) -> bool:
    """Whether a class is a model that has a forward, not the one that a file's models derive from."""
    is_model = issubclass(kind, transformers.PreTrainedModel) and kind.config_class is not None
    return is_model and kind.forward is not nn.Module.forward

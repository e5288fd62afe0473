"""Which names of implementations the code of a model asks for: under another name it would take another way."""

from __future__ import annotations

import inspect
import re
from functools import lru_cache
from types import ModuleType

_QUESTION = re.compile(r"_attn_implementation\s*(?:==|!=|in\b|not in\b)([^\n]*)")
_NAME = re.compile(r"[\"'](\w+)[\"']")


@lru_cache(maxsize=1024)
def questions(file: ModuleType) -> tuple[frozenset[str], ...]:
    """The names of each comparison of the implementation's name in a file; none where its text is not to be had."""
    try:
        text = inspect.getsource(file)
    except (OSError, TypeError):
        return ()
    found = (frozenset(_NAME.findall(question)) for question in _QUESTION.findall(text))
    return tuple(names for names in found if names)


def asks_for_names(file: ModuleType) -> bool:
    """Whether a file's code goes different ways for different names."""
    return bool(questions(file))


def is_alike(file: ModuleType, one: str, other: str) -> bool:
    """Whether a file's code goes the same way under both names."""
    return all((one in names) == (other in names) for names in questions(file))

"""The argument by which models of transformers take a cache: its name changed with version 5.24."""

from __future__ import annotations

from typing import Any

from tests.watch.models import VERSION

NAME = "cache" if VERSION >= (5, 24) else "past_key_values"


def given(cache: Any) -> dict[str, Any]:
    """The arguments that hand a cache to a model."""
    return {NAME: cache}


def returned(outputs: Any) -> Any:
    """The cache in a model's outputs."""
    return getattr(outputs, NAME)

"""What is shown or told of something lower down: who knows stands above it, and is loaded when it is asked for.

This is the one place that names a module above it; tests/test_imports.py holds that no other does.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pellucid.viewer.viewing.viewer import Viewer


def view(shown: Any, *args: Any, **options: Any) -> Viewer:
    """`pellucid.view` of a record or an observation, whose method this is; it says what it takes."""
    found: Viewer = import_module("pellucid.viewer.viewing.view").view(shown, *args, **options)
    return found


def save_picture(observation: Any, path: Any, **options: Any) -> Path:
    """`Observation.save_picture`, which says what it takes."""
    found: Path = import_module("pellucid.viewer.pictures.observation_picture").save(observation, path, **options)
    return found


def is_of_several_ranks(call: Any) -> bool:
    """Whether the arguments of a call are those of one of several ranks: of torch.distributed's tensors."""
    if "torch.distributed.tensor" not in sys.modules:  # without it there are none
        return False
    found: bool = import_module("pellucid.distributed.asked").is_sharded(call)
    return found


def posed_to_ranks(call: Any) -> tuple[Any, str]:
    """Such a call as a problem, and in words how keys and values come together."""
    found: tuple[Any, str] = import_module("pellucid.distributed.asked").posed(call)
    return found

"""What is shown of something lower down: the viewer stands above what it shows, and is loaded when it is asked for.

This is the one place that names a module above it; tests/test_imports.py holds that no other does.
"""

from __future__ import annotations

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

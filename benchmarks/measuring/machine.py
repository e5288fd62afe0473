"""The machine and the versions that numbers belong to."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path

import torch

from pellucid.commands.machine import report

PACKAGES = ("pellucid", "torch", "llvmlite", "numpy", "onnxruntime", "openvino", "jax", "jaxlib")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def description() -> dict[str, str]:
    """What a bug report says of the machine, and the packages' versions."""
    return report() | {package: version for package in PACKAGES if (version := _version(package))}


def last_cache_bytes() -> int | None:
    """The size of the last cache, which others on a shared server use too; None if unknown."""
    sizes = [_bytes(file) for file in CACHES.glob("index*/size")]
    return max((size for size in sizes if size), default=None)


def _bytes(file: Path) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)", file.read_text(encoding="ascii").strip())
    return int(found[1]) * UNITS[found[2]] if found else 0


def _version(package: str) -> str:
    if package == "torch":
        return str(torch.__version__)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def short() -> str:
    """One line for titles."""
    processor = report()["processor"]
    return f"{processor}, {torch.get_num_threads()} threads, Python {platform.python_version()}"

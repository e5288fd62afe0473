"""Who takes part: one file a contender, in the order of the table. contract.py says what a contender is."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from benchmarks.contenders import eager, flex, jax, onnxruntime, openvino, pellucid, sdpa
from benchmarks.contenders.contract import Contender

CONTENDERS: dict[str, Contender] = {
    module.NAME: module for module in (pellucid, sdpa, flex, eager, onnxruntime, openvino, jax)
}
PEERS = tuple(name for name in CONTENDERS if name != pellucid.NAME)


def missing() -> dict[str, str]:
    """Contenders that cannot take part, and why."""
    return {name: reason for name, contender in CONTENDERS.items() if (reason := _reason(contender))}


def _reason(contender: Contender) -> str:
    absent = [package for package in contender.PACKAGES if find_spec(package) is None]
    if absent:
        return f"{' and '.join(absent)} not installed"
    try:
        for package in contender.PACKAGES:
            import_module(package)
    except Exception as error:  # a peer that is broken here is left out, and said to be
        return f"{type(error).__name__}: {error}"
    return ""

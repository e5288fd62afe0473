"""A function in a process of its own: for peaks of memory, which never fall again, and for first calls and imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
TIMEOUT = 600  # seconds
# glibc would keep large blocks that were freed, and memory that is taken from there does not show as growth.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}


class FailedError(Exception):
    """The process ended without an answer."""


def in_a_process(function: Callable[..., Mapping[str, float]], **arguments: Any) -> dict[str, float]:
    """What `function(**arguments)` returns in a new process with as many threads, without gradients.

    Args:
        function: one that a module of this package has by its name.
        arguments: whatever JSON can say.

    Raises:
        FailedError: it raised, was killed, or did not end in ten minutes; says the last line of what it printed.

    """
    call = json.dumps([function.__module__, function.__qualname__, torch.get_num_threads(), arguments])
    output = run_python("-m", "benchmarks.measuring.process", call, **RETURNED)
    answer: dict[str, float] = json.loads(output.splitlines()[-1])
    return answer


def run_python(*arguments: str, **variables: str) -> str:
    """What a new interpreter prints, run from the repository's root with some environment variables."""
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"not ready after {TIMEOUT} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise FailedError(said[-1] if said else f"ended with {done.returncode}")
    return done.stdout


def main(call: str) -> None:
    """In the new process: call, and print what it returned."""
    module, name, workers, arguments = json.loads(call)
    torch.set_num_threads(workers)
    function: Callable[..., Mapping[str, float]] = getattr(import_module(module), name)
    with torch.no_grad():
        print(json.dumps(dict(function(**arguments))))


if __name__ == "__main__":
    main(sys.argv[1])

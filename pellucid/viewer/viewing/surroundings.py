"""Where Python runs, and what is installed there."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def in_notebook() -> bool:
    """Whether what a cell returns is shown by a notebook: by Jupyter's kernel, also in VS Code and Colab, or marimo."""
    marimo = sys.modules.get("marimo")
    if marimo is not None and marimo.running_in_notebook():
        return True
    return has_kernel()


def has_kernel() -> bool:
    """Whether a kernel of Jupyter runs this process."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def needed(*packages: str) -> None:
    """Raise ImportError, saying what to install, if one of these packages is missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(
            f'the page needs {" and ".join(missing)}, which is not installed; pip install "pellucid[view]"',
            name=missing[0],
        )

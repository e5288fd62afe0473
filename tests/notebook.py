"""The notebook with its outputs: `python -m tests.notebook` runs it and stores what its cells give."""

from __future__ import annotations

import base64
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.image
import nbformat
import torch
from nbclient import NotebookClient
from torch.nn.functional import adaptive_avg_pool2d

NOTEBOOK = Path(__file__).parents[1] / "examples" / "attention.ipynb"
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]\d+)?")
GRID = 12  # parts of a picture, either way, whose colours are compared


def stored() -> Any:
    """The notebook as it is kept."""
    return nbformat.read(NOTEBOOK, as_version=4)


def executed(folder: Path) -> Any:
    """The notebook after its cells have run, with nothing in it that tells when and where."""
    notebook = stored()
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources, record_timing=False).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    """The cells that are run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> str:
    """What a cell printed and gave as text."""
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def words(text: str) -> list[str]:
    """A text without its numbers and without how its lines are broken."""
    return NUMBER.sub("#", text).split()


def numbers(text: str) -> torch.Tensor:
    """The numbers in a text."""
    return torch.tensor([float(number) for number in NUMBER.findall(text)], dtype=torch.float64)


def pictures(cell: Any) -> list[torch.Tensor]:
    """The mean colours of a picture's parts, [3, GRID, GRID], for each that a cell drew."""
    found = [output.get("data", {}).get("image/png") for output in cell.outputs]
    read = [matplotlib.image.imread(io.BytesIO(base64.b64decode(image))) for image in found if image]
    return [adaptive_avg_pool2d(torch.tensor(image[..., :3]).permute(2, 0, 1), GRID) for image in read]


def main() -> None:
    """Store the outputs."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(Path(folder))
    nbformat.write(notebook, NOTEBOOK)
    print(f"stored the outputs of {len(code_cells(notebook))} cells", file=sys.stderr)


if __name__ == "__main__":
    main()

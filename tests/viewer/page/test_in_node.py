"""The page's functions that need no browser, tested in node by the *.test.js files here."""

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")
FILES = sorted(Path(__file__).parent.glob("*.test.js"))


@pytest.mark.sampled
@pytest.mark.skipif(NODE is None, reason="node is not installed, and runs the page's own tests")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_in_node(path: Path) -> None:
    ran = subprocess.run([str(NODE), "--test", str(path)], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr

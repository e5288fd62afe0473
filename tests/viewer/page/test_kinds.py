"""Kinds of heads have the letters of the terminal on the page too, and every kind that a head can be has one."""

import json
import subprocess
from pathlib import Path

import pytest

from pellucid.viewer.terminal.record_page import LETTERS
from tests.viewer.page.test_in_node import NODE

PAGE = Path(__file__).parents[3] / "pellucid" / "viewer" / "page"


@pytest.mark.skipif(NODE is None, reason="node is not installed, and runs the page's own functions")
def test_a_kind_has_the_terminals_letter() -> None:
    script = (
        f"import {{ KINDS, kindLook }} from {json.dumps((PAGE / 'kinds.js').as_uri())};"
        "console.log(JSON.stringify(Object.fromEntries(KINDS.map((kind) => [kind, kindLook(kind).letter]))))"
    )
    ran = subprocess.run(
        [str(NODE), "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(ran.stdout) == LETTERS

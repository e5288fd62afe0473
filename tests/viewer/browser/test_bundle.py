"""Joining the page's modules changes nothing of what they mean, and what cannot be joined is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pellucid.viewer.browser import bundle

NODE = shutil.which("node")
MOST = 1_000_000  # bytes of a script


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Modules by name, in the place of the page's."""
    found: dict[str, str] = {}

    def text(name: str) -> str:
        if name not in found:
            raise FileNotFoundError(name)
        return found[name]

    monkeypatch.setattr(bundle, "page_text", text)
    return found


@pytest.mark.parametrize("script", [bundle.widget_script, bundle.profile_widget_script, bundle.saved_script])
def test_the_page_can_be_joined(script) -> None:
    assert len(script().encode("utf-8")) < MOST


@pytest.mark.skipif(NODE is None, reason="node is not installed, and reads the scripts")
@pytest.mark.parametrize(
    ("script", "ending"),
    [(bundle.widget_script, "mjs"), (bundle.profile_widget_script, "mjs"), (bundle.saved_script, "cjs")],
)
def test_the_joined_page_is_javascript(script, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"page.{ending}"
    path.write_text(script(), encoding="utf-8")
    ran = subprocess.run([str(NODE), "--check", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_module_comes_after_those_that_it_imports(modules: dict[str, str]) -> None:
    modules["a.js"] = (
        'import { two } from "./b.js";\nimport {\n  three,\n} from "./c.js";\nexport const one = two + three;\n'
    )
    modules["b.js"] = 'import { three } from "./c.js";\nimport { one } from "./a.js";\nexport const two = () => one;\n'
    modules["c.js"] = "export async function three() {}\nclass Four {}\n"
    joined = bundle.joined("a.js")
    assert joined == (
        "// c.js\nasync function three() {}\nclass Four {}\n// b.js\nconst two = () => one;\n"
        "// a.js\nconst one = two + three;\n"
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("const one = 2;\n", "b.js: one is a name of a.js too|a.js: one is a name of b.js too"),
        ("export const two = 1;\nexport default 1;\n", "b.js: 'export default 1;' is no import or export"),
        ("export const two = 1;\nexport * from './a.js';\n", "no import or export"),
        ('import * as all from "./a.js";\nexport const two = 1;\n', "no import or export"),
        ('import { one as other } from "./a.js";\nexport const two = 1;\n', "imports one as other from a.js"),
        ("export const three = 1;\n", "a.js: imports two from b.js, which declares no such name"),
        ('import { four } from "./d.js";\nexport const two = 1;\n', "d.js: there is no such module, which b.js needs"),
    ],
)
def test_what_cannot_be_joined_is_refused(modules: dict[str, str], other: str, message: str) -> None:
    modules["a.js"] = 'import { two } from "./b.js";\nexport const one = two;\n'
    modules["b.js"] = other
    with pytest.raises(bundle.BundleError, match=message):
        bundle.joined("a.js")

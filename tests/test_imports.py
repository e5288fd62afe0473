"""Who may import whom: the layers of docs/architecture.md, read from the syntax trees."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.cases import EFFORT

PACKAGE = Path(__file__).parents[1] / "pellucid"

# From the bottom up: a module imports from its own layer and from the lines before, not from its neighbours in a line.
LAYERS = (
    ("_version", "legible", "softmax", "tensors", "showing"),
    ("masks", "scores"),
    ("dropout", "language"),
    ("problem",),
    ("readouts",),
    ("reference", "arguments"),
    ("engines",),
    ("observation",),
    ("distributed",),
    ("functional",),
    ("nn", "record"),
    ("capture",),
    ("accelerating", "profiles"),
    ("viewer", "demo"),
    ("lessons",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
OPEN_TO_THE_FACE = RANK["nn"]  # from here up, `import pellucid` means the public names

# Packages beside torch and the standard library, and the only places that may import them.
THIRD_PARTY = {
    "rich": (
        "viewer",
        "commands",
        "demo.evaluate",
        "demo.train",
        "lessons.train",
        "capture.run.progress",
        "record.studies.summary",
    ),
    "huggingface_hub": ("commands.models",),  # comes with transformers
    "transformers": (
        "accelerating.growing_cache",
        "capture.sources.transformers",
        "commands.models",
    ),
    "safetensors": (
        "demo.model.weights",
        "lessons.model.weights",
    ),
    "matplotlib": ("viewer.pictures",),
    "babel": ("demo.data.cldr",),
    "ddsketch": ("profiles.sketch",),
    "numpy": ("viewer.pictures", "viewer.browser", "engines.cpu"),
    "llvmlite": ("engines.cpu", "commands.machine"),
    "pyarrow": ("record.export", "profiles.reading.files", "profiles.studies.parquet"),
    "ray": ("commands.profiles.on_ray",),
    "starlette": ("viewer.browser",),
    "uvicorn": ("viewer.browser", "viewer.viewing.served"),
    "anywidget": ("viewer.browser.widget",),
    "traitlets": ("viewer.browser.widget",),  # comes with anywidget
}
OPTIONAL = (
    "anywidget",
    "babel",
    "ddsketch",
    "hypothesis",
    "ipykernel",
    "matplotlib",
    "nbclient",
    "nbformat",
    "onnx",
    "pyarrow",
    "pytest",
    "ray",
    "starlette",
    "transformers",
    "uvicorn",
)

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}
MODULES["pellucid"] = MODULES.pop("__init__")


def imports(module: str) -> Iterator[str]:
    """What a module imports when it runs, wherever in it: "torch.nn", "pellucid.masks". Types alone do not count."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    typing_only = {id(part) for node in ast.walk(tree) if _is_type_checking(node) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute"
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner.removeprefix("pellucid.") in MODULES else str(node.module)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own_imports(module: str) -> list[str]:
    """The modules of the package that a module imports, without the leading "pellucid."; "pellucid" is the face."""
    return [name.removeprefix("pellucid.") for name in imports(module) if name.split(".")[0] == "pellucid"]


def layer_of(module: str) -> str:
    return module.split(".")[0]


def inside(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def run_python(code: str, timeout: int = 120) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.sampled
@pytest.mark.parametrize("module", [module for module in MODULES if module != "pellucid"])
def test_imports_run_downward(module: str) -> None:
    own = layer_of(module)
    assert own in RANK, f"{own} has no place in LAYERS"
    for imported in own_imports(module):
        if imported == "pellucid":
            assert RANK[own] > OPEN_TO_THE_FACE, f"{module} imports the face, which is above it"
        elif layer_of(imported) != own:
            assert RANK[layer_of(imported)] < RANK[own], f"{module} imports {imported}, which is not below it"


def test_no_circle_of_imports() -> None:
    """Whatever a module imports, and what that imports, never comes back to it."""
    left = {module: set(own_imports(module)) & MODULES.keys() - {"pellucid"} for module in MODULES}
    while free := [module for module, imported in left.items() if not imported]:
        left = {module: imported.difference(free) for module, imported in left.items() if module not in free}
    assert not left, f"in a circle, or above one: {sorted(left)}"


def test_the_reference_knows_no_engine() -> None:
    reached, found = ["reference"], set()
    while reached:
        module = reached.pop()
        found.add(module)
        reached += [name for name in own_imports(module) if name not in found]
    assert "problem" in found
    assert not [module for module in found if layer_of(module) == "engines" or module == "pellucid"]


@pytest.mark.sampled
@pytest.mark.parametrize(
    "module", [module for module in MODULES if layer_of(module) not in ("demo", "lessons", "commands", "cli")]
)
def test_only_the_command_line_imports_the_demo(module: str) -> None:
    assert not [imported for imported in own_imports(module) if layer_of(imported) == "demo"]


@pytest.mark.sampled
@pytest.mark.parametrize("module", MODULES)
def test_other_packages_are_imported_where_they_belong(module: str) -> None:
    for imported in imports(module):
        package = imported.split(".")[0]
        if package in ("torch", "pellucid") or package in sys.stdlib_module_names:
            continue
        assert package in THIRD_PARTY, f"{module} imports {package}, which THIRD_PARTY does not know"
        assert inside(module, THIRD_PARTY[package]), f"{module} imports {package}"


def test_every_public_name_is_what_type_checkers_see() -> None:
    import pellucid

    tree = ast.parse(MODULES["pellucid"].read_text(encoding="utf-8"))
    seen = [node for part in tree.body if _is_type_checking(part) for node in ast.walk(part)]
    named = {name.name: node.module for node in seen if isinstance(node, ast.ImportFrom) for name in node.names}
    assert pellucid.__all__ == sorted({*named, "__version__"})
    for name, module in named.items():
        found = import_module(f"pellucid.{name}") if module == "pellucid" else getattr(import_module(module), name)
        assert getattr(pellucid, name) is found


def test_other_names_are_not_there() -> None:
    import pellucid

    assert set(pellucid.__all__) <= set(dir(pellucid))
    with pytest.raises(AttributeError, match=r"^module 'pellucid' has no attribute 'attend'$"):
        _ = pellucid.attend


def test_the_package_loads_nothing_until_it_is_asked() -> None:
    loaded = run_python("import pellucid, sys; print(*sys.modules)").split()
    assert {name for name in loaded if inside(name, ("pellucid",))} == {"pellucid", "pellucid._version"}
    assert not {*THIRD_PARTY, "torch"} & set(loaded)


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process for each module takes minutes without")
def test_any_module_may_be_the_first() -> None:
    """Names that load late fix no order in which modules load: none may count on what another has loaded."""
    code = f"""
import importlib, os, sys
import torch  # once for all of the processes

for module in {sorted(MODULES)[:: 1 if EFFORT > 1 else 4]!r}:
    process = os.fork()
    if not process:
        importlib.import_module(module if module == "pellucid" else "pellucid." + module)
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        sys.exit(module)
"""
    run_python(code, timeout=600)


def test_no_public_name_hides_a_module() -> None:
    import pellucid

    named = [name for name in pellucid.__all__ if name in MODULES]
    assert all(getattr(pellucid, name) is sys.modules[f"pellucid.{name}"] for name in named)


def test_import_without_the_optional_packages() -> None:
    code = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import torch
import pellucid, pellucid.cli, pellucid.commands.machine, pellucid.demo, pellucid.viewer.terminal.page
x = torch.rand(5, 4)
print(list(pellucid.attention(x, x, x).shape), pellucid.commands.machine.report()["pellucid"])
"""
    import pellucid

    assert run_python(code).strip() == f"[5, 4] {pellucid.__version__}"


def test_the_public_names_load_neither_the_demo_nor_what_draws() -> None:
    unwanted = ("pellucid.demo", "pellucid.viewer", "rich", "safetensors", "matplotlib", "babel", "transformers")
    loaded = run_python("import pellucid, sys; pellucid.attention, pellucid.watch; print(*sys.modules)").split()
    assert "pellucid.functional" in loaded
    assert not set(unwanted) & set(loaded)

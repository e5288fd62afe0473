"""The page's modules joined into one script, where a widget or a saved page has room for one.

The modules are written for it: their imports and exports have one form each, and no two have a name at the top level in
common. What is not so is refused, so that joining never changes what a module means.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_IMPORT = re.compile(r'^import \{([^{}]*)\} from "\./([\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const|let) )", re.MULTILINE)
_DECLARED = re.compile(r"^(?:export )?(?:async )?(?:function\*?|class|const|let|var) ([\w$]+)", re.MULTILINE)
_LEFT = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


class BundleError(ValueError):
    """A module of the page that cannot be joined with others."""


def page_text(name: str) -> str:
    """A file of the page."""
    return (files("pellucid.viewer") / "page" / name).read_text(encoding="utf-8")


@cache
def widget_script() -> str:
    """The module that a widget's front end loads."""
    return joined("widget.js") + "export default { render: renderWidget };\n"


@cache
def profile_widget_script() -> str:
    """The same for a profile."""
    return joined("profilewidget.js") + "export default { render: renderProfileWidget };\n"


@cache
def saved_script() -> str:
    """The script of a page that opens from disk."""
    return '"use strict";\n(() => {\n' + joined("saved.js") + "openSaved();\n})();\n"


def joined(entry: str) -> str:
    """A module and those that it needs as one text, in the order in which a browser runs them. Raises BundleError."""
    sources: dict[str, str] = {}
    _gather(entry, sources, ())
    declared: dict[str, str] = {}
    for name, source in sources.items():
        for one in _DECLARED.findall(source):
            if one in declared:
                raise BundleError(f"{name}: {one} is a name of {declared[one]} too; top-level names must be unlike")
            declared[one] = name
    for name, source in sources.items():
        _check_imports(name, source, declared)
    return "".join(f"// {name}\n{_without_modules(name, source)}" for name, source in sources.items())


def _gather(name: str, sources: dict[str, str], above: tuple[str, ...]) -> None:
    """Add a module after those that it imports; one of a circle comes where a browser would run it."""
    if name in sources or name in above:
        return
    try:
        source = page_text(name)
    except OSError as error:
        raise BundleError(
            f"{name}: there is no such module, which {above[-1] if above else 'the page'} needs"
        ) from error
    for _, imported in _IMPORT.findall(source):
        _gather(imported, sources, (*above, name))
    sources[name] = source if source.endswith("\n") else source + "\n"


def _check_imports(name: str, source: str, declared: dict[str, str]) -> None:
    for names, module in _IMPORT.findall(source):
        for one in filter(None, (part.strip() for part in names.split(","))):
            if declared.get(one) != module:
                raise BundleError(f"{name}: imports {one} from {module}, which declares no such name")


def _without_modules(name: str, source: str) -> str:
    """A module's source as part of a script."""
    plain = _EXPORT.sub("", _IMPORT.sub("", source))
    left = _LEFT.search(plain)
    if left is not None:
        raise BundleError(f"{name}: {left[0]!r} is no import or export of the form that can be joined")
    return plain

"""The examples in the docstrings of the package, run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import pellucid

NAMES = ["pellucid", *(module.name for module in pkgutil.walk_packages(pellucid.__path__, "pellucid."))]
NOT_RUN = ("pellucid.__main__",)  # importing it runs the command line


def examples_of(name: str) -> list[doctest.DocTest]:
    tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name), name)
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_RUN])
def test_docstring_examples(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    report: list[str] = []
    for test in examples_of(name):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


def test_the_face_has_examples() -> None:
    found = {test.name for test in examples_of("pellucid.functional")}
    # Not equal: where torch.compile broke a graph, it leaves functions of its own in the module.
    assert {"pellucid.functional.attention", "pellucid.functional.observe"} <= found

"""`pellucid compare`: two models or checkpoints, head by head, from their profiles."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pellucid.commands.console import console
from pellucid.commands.errors import InputError, about
from pellucid.commands.profiles.shown import chosen, opened
from pellucid.profiles.studies.comparing import ComparedHead, Comparison
from pellucid.profiles.studies.tables import profile_json
from pellucid.viewer.terminal.comparison_page import ComparisonView, comparison_page


def run(options: argparse.Namespace) -> int:
    """Show how much every head differs; the exit status.

    Raises:
        InputError: a profile cannot be read, they have no head in common, or an option does not fit.

    """
    a, b = (opened(text) for text in (options.a, options.b))
    wanted = {a.heads[place] for place in chosen(a, options)}
    with about(""):
        comparison = a.compared(b).sorted(options.sort)
    heads = [head for head in comparison.heads if head.a in wanted]
    if not heads:
        raise InputError("--layer: what it names of the first is not in the second")
    if options.json:
        print(json.dumps({"a": profile_json(a), "b": profile_json(b), **_document(comparison, heads)}, allow_nan=False))
    else:
        console().print(comparison_page(ComparisonView(a, b, comparison, heads, options.sort)), crop=False)
    return 0


def _document(comparison: Comparison, heads: list[ComparedHead]) -> dict[str, Any]:
    return {
        "notes": list(comparison.notes),
        "only_a": [head._asdict() for head in comparison.only_a],
        "only_b": [head._asdict() for head in comparison.only_b],
        "heads": [_head(head) for head in heads],
    }


def _head(head: ComparedHead) -> dict[str, Any]:
    return {
        "layer": head.layer,
        "a": head.a._asdict(),
        "b": head.b._asdict(),
        "kind": [kind.as_json() for kind in head.whole_kinds],
        "kind_without_sink": [kind.as_json() for kind in head.kinds],
        "changed_kind": head.changed_kind,
        "differs_most_in": head.strongest.number,
        "numbers": {name: one.as_json() for name, one in head.differences.items()},
    }

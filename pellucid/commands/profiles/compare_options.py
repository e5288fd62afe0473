"""The options of `pellucid compare`, declared with the standard library alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable

COMPARE_EXAMPLES = """\
examples:
  pellucid compare before.heads after.heads
  pellucid compare small.heads large.heads --sort induction_without_sink
  pellucid compare before.heads after.heads --layer 3 --head 5
  pellucid compare before.heads after.heads --json > differences.json
"""


def declare(add: Callable[..., argparse.ArgumentParser], whole: Callable[[str], int]) -> None:
    """Declare the command.

    Args:
        add: makes a command's parser, of a name, a summary, a description and examples.
        whole: a number of a layer or head, from its text.

    """
    parser = add(
        "compare",
        "two models or checkpoints, head by head, from their profiles",
        "Compares the numbers of every head in two profiles, files that pellucid profile wrote: the means over the "
        "documents, their difference with its interval, and whether it is more than chance. Heads that differ most for "
        "the spread of their documents come first.",
        COMPARE_EXAMPLES,
    )
    parser.add_argument("a", metavar="A", help="a profile, such as before.heads")
    parser.add_argument("b", metavar="B", help="another, such as after.heads")
    parser.add_argument("--sort", metavar="NUMBER", help="show and order by one number, such as induction")
    parser.add_argument("--layer", type=whole, metavar="N", help="only this layer of A, counted from 0")
    parser.add_argument("--head", type=whole, metavar="N", help="only this head of it, in every number")
    parser.add_argument("--json", action="store_true", help="print every number of every head as JSON")

"""`python -m tests.sweep`: a tenth of the model classes compared, or all; a table, and a file with every outcome."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import transformers

from tests.sweep import classes
from tests.sweep.comparing import Outcome, outcome
from tests.sweep.shrinking import told

SECONDS = 90  # that one class may take


def main() -> int:
    """Sweep; 1 if a class differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("names", nargs="*", help="classes by name; else a fixed tenth")
    parser.add_argument("--all", action="store_true", help="every class")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="the K-th of N parts of them, for N processes")
    parser.add_argument("--json", type=Path, help="a file for the outcomes")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    wanted = set(chosen.names)
    by_name = wanted.__contains__ if wanted else None if chosen.all else classes.is_of_the_share
    names = classes.names(by_name) if by_name else classes.names()
    part, parts = map(int, chosen.part.split("/"))
    outcomes = []
    for name in names[part - 1 :: parts]:
        outcomes.append(apart(name))
        _say(outcomes[-1])
        if chosen.json is not None:
            chosen.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=1), encoding="utf-8")
    print(table(outcomes))
    return int(any(one.differing or one.wrong_weights for one in outcomes))


def apart(name: str) -> Outcome:
    """The outcome of a class in a process of its own, which may neither last nor take all memory."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        try:
            found = outcome(name)
        except BaseException as error:  # told by the process that waits
            found = Outcome(name, differing={"sweep": told(error)})
        with os.fdopen(write, "w") as pipe:
            json.dump(asdict(found), pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return Outcome(**json.loads(text)) if text else Outcome(name, reason=f"ended, or ran for more than {SECONDS} s")


def _say(one: Outcome) -> None:
    kind = one.name.rpartition(":")[2]
    if not one.is_built:
        print(f"-  {kind}: {one.reason}", flush=True)
        return
    sign = "!!" if one.differing or one.wrong_weights or one.unlisted else "ok"
    weights = f"{one.weights} weights" + (f", {one.wrong_weights} WRONG" if one.wrong_weights else "")
    told_missed = f", missed {sorted(one.missed)}" if one.missed else ""
    unlisted = f", {one.unlisted} unlisted" if one.unlisted else ""
    differing = f" {one.differing}" if one.differing else ""
    print(
        f"{sign} {kind}: {','.join(one.modes)}; {one.layers} layers, {weights}{told_missed}{unlisted}{differing}",
        flush=True,
    )


def table(outcomes: list[Outcome]) -> str:
    """The counts, in a line for the closing table."""
    built = [one for one in outcomes if one.is_built]
    same = {
        way: sum(not any(key.startswith(way) for key in one.differing) for one in built)
        for way in ("watched", "accelerated", "everywhere")
    }
    weights = sum(one.weights for one in built)
    wrong = sum(one.wrong_weights for one in built)
    others = [one.name.rpartition(":")[2] for one in built if one.eager_differs]
    missed = Counter(kind for one in built for kind in one.missed if kind)
    lines = [
        f"transformers {transformers.__version__}: {len(outcomes)} classes, {len(built)} built",
        *(f"{way}: {number} of {len(built)} the same" for way, number in same.items()),
        f"weights: {weights} equal to eager's, {wrong} not",
        f"eager itself computes something else: {', '.join(others) or 'none'}",
        f"missed: {', '.join(f'{kind} ({number})' for kind, number in sorted(missed.items()))}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

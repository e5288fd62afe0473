"""The rows of a layer's calls, as runs: [rows of a call, how many such calls follow one another].

A generation is the prompt's rows once and one row as often as it goes on: two runs, however long it is.
"""

from __future__ import annotations

from itertools import accumulate, chain, repeat

Runs = list[list[int]]


def rows_of(runs: Runs) -> int:
    """The rows of all calls together."""
    return sum(rows * times for rows, times in runs)


def joined(earlier: Runs, later: Runs) -> Runs:
    """The calls of one and then of the other; none where those of one are not known."""
    if not earlier or not later:
        return []
    (rows, times), (next_rows, next_times) = earlier[-1], later[0]
    if rows == next_rows:
        return [*earlier[:-1], [rows, times + next_times], *later[1:]]
    return [*earlier, *later]


def first(runs: Runs, count: int) -> Runs:
    """The calls of the first rows; the last of them may be cut."""
    found: Runs = []
    for rows, times in runs:
        whole, rest = divmod(min(count, rows * times), rows)
        for run in ([rows, whole], [rest, 1]):
            if all(run):
                found = joined(found, [run]) if found else [run]
        count -= whole * rows + rest
    return found


def starts(runs: Runs) -> list[int]:
    """The first row of each call."""
    lengths = list(chain.from_iterable(repeat(rows, times) for rows, times in runs))
    return list(accumulate(lengths, initial=0))[: len(lengths)]

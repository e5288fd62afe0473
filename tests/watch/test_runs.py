"""The rows of calls as runs, against the list of the calls themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pellucid.record import runs

CALLS = st.lists(st.integers(1, 4), min_size=1, max_size=9)


def as_runs(calls: list[int]) -> runs.Runs:
    found: runs.Runs = [[calls[0], 1]]
    for rows in calls[1:]:
        found = runs.joined(found, [[rows, 1]])
    return found


@given(CALLS)
def test_starts_are_where_calls_begin(calls: list[int]) -> None:
    assert runs.starts(as_runs(calls)) == [sum(calls[:place]) for place in range(len(calls))]
    assert runs.rows_of(as_runs(calls)) == sum(calls)


@given(CALLS, CALLS)
def test_two_lists_join_as_one(earlier: list[int], later: list[int]) -> None:
    assert runs.joined(as_runs(earlier), as_runs(later)) == as_runs(earlier + later)


@given(CALLS, st.integers(0, 40))
def test_first_rows_are_cut_within_a_call(calls: list[int], count: int) -> None:
    left, expected = count, []
    for rows in calls:
        if left > 0:
            expected.append(min(rows, left))
        left -= rows
    assert runs.first(as_runs(calls), count) == (as_runs(expected) if expected else [])


def test_unknown_calls_stay_unknown() -> None:
    assert runs.joined([], [[3, 1]]) == runs.joined([[3, 1]], []) == runs.starts([]) == []

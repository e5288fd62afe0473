"""Goals and what they are judged by, on numbers that are known."""

from __future__ import annotations

import pytest

from benchmarks.goals import Costs, Faster, FasterOrShare, FasterThanAny, Goal, Share, Within
from benchmarks.limits import DOT, FLOAT32, PRODUCTS, TILES, Limits
from benchmarks.reporting.report import Row, summary
from benchmarks.results import Limit, Raced, Times


def raced() -> Raced:
    """Ours takes about 2, one peer 3 and another 8; one round of ours was disturbed."""
    result = Raced("work", ["ours", "quick", "slow"], 12.0, "FLOP", Limit("peak", 10.0))
    result.timed = {
        "ours": Times([2.0, 2.0, 9.0]),
        "quick": Times([3.0, 3.2, 9.9]),
        "slow": Times([8.0, 8.0, 8.0]),
    }
    return result


@pytest.mark.parametrize(
    ("goal", "beside", "measured", "met"),
    [
        (Faster(1.4, "quick"), "quick", 1.5, True),
        (Faster(1.6, "quick"), "quick", 1.5, False),
        (Faster(4.0, "slow"), "slow", 4.0, True),
        (FasterThanAny(1.4), "quick", 1.5, True),
        (Costs(0.7, "quick"), "quick", 2 / 3, True),
        (Costs(0.6, "quick"), "quick", 2 / 3, False),
        (Share(0.6), "ours", 0.6, True),
        (Share(0.7), "ours", 0.6, False),
        (FasterOrShare(1.4, "quick", 0.9), "quick", 1.5, True),
        (FasterOrShare(1.6, "quick", 0.6), "ours", 0.6, True),
        (FasterOrShare(1.6, "quick", 0.7), "quick", 1.5, False),
    ],
)
def test_a_race_is_judged_by_the_median_of_the_rounds_ratios(
    goal: Goal, beside: str, measured: float, met: bool
) -> None:
    verdict = goal.judge(raced())
    assert (verdict.beside, verdict.met) == (beside, met)
    assert verdict.measured == pytest.approx(measured)


def test_which_of_two_ways_a_goal_was_met_is_said() -> None:
    assert FasterOrShare(1.4, "quick", 0.9).judge(raced()).goal == "≥ 1.4 × quick or ≥ 90% of the limit: the ratio"
    assert FasterOrShare(1.6, "quick", 0.6).judge(raced()).goal == "≥ 1.6 × quick or ≥ 60% of the limit: the limit"
    assert FasterOrShare(1.6, "quick", 0.7).judge(raced()).goal == "≥ 1.6 × quick or ≥ 70% of the limit"


def test_the_limit_of_products_is_that_of_the_fastest_way() -> None:
    vectors = Limits({FLOAT32: 10.0, DOT: 15.0}, {}, None)
    tiles = Limits({FLOAT32: 10.0, DOT: 5.0, TILES: 120.0}, {}, None)
    found = {name: [limits.of(name) for limits in (vectors, tiles)] for name in PRODUCTS}
    assert found == {
        "float32 products": [Limit("float32 products", 10.0), Limit("float32 products", 20.0)],
        "bfloat16 products": [Limit("bfloat16 products", 15.0), Limit("bfloat16 products", 120.0)],
    }
    assert Limits({}, {}, None).of("float32 products") is None


@pytest.mark.parametrize(
    "goal", [FasterOrShare(1, "slow", 0.5), Faster(1, "slow"), FasterThanAny(1), Costs(1, "slow"), Share(0.5)]
)
def test_without_our_own_time_nothing_is_judged(goal: Goal) -> None:
    result = raced()
    del result.timed["ours"]
    result.refused["ours"] = "wrong: error 1"
    verdict = goal.judge(result)
    assert verdict.met is None
    assert verdict.reason == "ours: wrong: error 1"


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Within("s", most=60), True),
        (Within("s", most=40), False),
        (Within("s", least=10), True),
        (Within("s", least=60), False),
        (Within("MB", most=1), None),
    ],
)
def test_a_quantity_is_within_bounds(goal: Within, met: bool | None) -> None:
    assert goal.judge({"s": 50.0}).met is met


def test_a_goal_that_is_not_met_says_what_it_asks_of_the_machine() -> None:
    goals: list[Goal] = [
        Faster(1.4, "quick"),
        Faster(3.0, "quick"),
        FasterThanAny(1.6),
        Costs(0.6, "quick"),
        Share(0.7),
    ]
    result = raced()
    lines = summary([Row("float32", result, [goal.judge(result) for goal in goals])]).plain.splitlines()
    assert lines[0] == "1 of 5 goals met, 0 not judged"
    # The quick one does 12 operations in 3.2: 0.375 of the peak.
    assert lines[1:3] == [
        "✗ work: ≥ 3 × quick (quick): 1.5; asks for 112% of the limit",
        "✗ work: ≥ 1.6 × the fastest peer (quick): 1.5; asks for 60% of the limit",
    ]
    assert all("asks for" not in line for line in lines[3:])

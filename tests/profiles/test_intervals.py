"""How sure a share or a difference is: against closed forms."""

import math

import pytest
import torch

from pellucid.profiles.studies.intervals import holm, student, student_bound, wilson


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),
        (7, 10, 0.39678, 0.89221),
        (10, 10, 0.72247, 1.0),
        (81, 263, 0.25529, 0.36621),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(count, total, low, high):
    assert wilson(count, total) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


@pytest.mark.parametrize("t", [0.0, 0.01, 0.7, 2.1, 30.0, 1e4])
def test_student_is_its_closed_form(t):
    found = student(torch.full((4,), t, dtype=torch.float64), torch.tensor([1.0, 2.0, 4.0, 1e7]).double()).tolist()
    four = 1 - t / math.sqrt(4 + t * t) * (1 + 2 / (4 + t * t))
    expected = [1 - 2 / math.pi * math.atan(t), 1 - t / math.sqrt(2 + t * t), four, math.erfc(t / math.sqrt(2))]
    assert found[:3] == pytest.approx(expected[:3], abs=1e-12)
    assert found[3] == pytest.approx(expected[3], rel=1e-5, abs=1e-6)


def test_the_bound_leaves_a_twentieth():
    freedom = torch.tensor([1.0, 1.3, 2.0, 7.5, 100.0, 1e6]).double()
    bound = student_bound(freedom)
    torch.testing.assert_close(student(bound, freedom), torch.full_like(freedom, 0.05), rtol=1e-8, atol=0)
    assert bound[0] == pytest.approx(12.706205, abs=1e-5)
    assert bound[-1] == pytest.approx(1.959966, abs=1e-5)


def test_holm_corrects_for_all_that_are_known():
    given = torch.tensor([[0.01, math.nan], [0.04, 0.03], [0.9, 0.005]]).double()
    expected = torch.tensor([[0.04, math.nan], [0.09, 0.09], [0.9, 0.025]]).double()
    torch.testing.assert_close(holm(given), expected, equal_nan=True)
    assert holm(torch.full((3,), math.nan)).isnan().all()

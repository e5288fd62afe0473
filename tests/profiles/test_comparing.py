"""Two profiles head by head."""

from dataclasses import replace
from math import isnan, sqrt

import pytest
import torch

from pellucid.profiles.layout import ProfiledLayer
from pellucid.profiles.numbers import NUMBERS
from tests.profiles import checkpoints, making


@pytest.fixture(scope="module")
def comparison():
    return checkpoints.whole().compared(checkpoints.after())


def renamed(profile, *layers):
    return replace(profile, layout=replace(profile.layout, layers=tuple(ProfiledLayer(*one) for one in layers)))


def test_a_profile_is_like_itself():
    found = checkpoints.whole().compared(checkpoints.whole())
    assert [head.a for head in found.heads] == [head.b for head in found.heads] == checkpoints.whole().heads
    for head in found.heads:
        assert not head.changed_kind
        for one in head.differences.values():
            assert not one.sure
            assert isnan(one.difference) or one.difference == 0


def test_differences_are_welchs(comparison):
    a, b = checkpoints.whole(), checkpoints.after()
    for number in ("entropy", "nearby_without_sink"):
        means = [one.statistics(number) for one in (a, b)]
        for place, head in enumerate(comparison.heads):
            found = head.differences[number]
            n, m = (int(one.documents[place]) for one in means)
            variances = [float(one.variance[place]) * k / (k - 1) for one, k in zip(means, (n, m), strict=True)]
            error = sqrt(variances[0] / n + variances[1] / m)
            assert found.documents == (n, m)
            assert found.difference == pytest.approx(float(means[1].mean[place] - means[0].mean[place]))
            assert (found.low + found.high) / 2 == pytest.approx(found.difference)
            assert 1.96 * error < (found.high - found.low) / 2 < 3.2 * error
            spread = sqrt(((n - 1) * variances[0] + (m - 1) * variances[1]) / (n + m - 2))
            assert found.size == pytest.approx(found.difference / spread)


def test_what_changed_is_found_and_what_did_not_is_not():
    """The queries of the first layer are four times as long; those of the second are not."""
    first, second = (checkpoints.after(97, seed) for seed in (1, 2))
    same = first.compared(second)
    assert not any(one.sure for head in same.heads for one in head.differences.values())
    before = making.profile(13, 97, seed=5)
    found = before.compared(first).sorted("entropy")
    sure = {head.a.layer for head in found.heads if head.differences["entropy"].sure}
    assert "layers.0" in sure
    assert found.heads[0].a.layer == "layers.0"
    assert found.heads[0].strongest.sure


def test_order_is_by_size_and_what_is_sure_comes_first(comparison):
    for by in ("entropy", None):
        shown = [head.differences[by] if by else head.strongest for head in comparison.sorted(by).heads]
        weights = [(one.sure, abs(one.size)) for one in shown]
        assert weights == sorted(weights, reverse=True)
    with pytest.raises(ValueError, match=r"^number: one of sink_mass"):
        comparison.sorted("speed")


def test_other_names_are_matched_by_place():
    a = checkpoints.whole()
    b = renamed(a, ("h.0", "causal self", (0, 1, 2)), ("h.1", "causal self", (0, 1, 2)))
    found = a.compared(b)
    assert [head.b.layer for head in found.heads] == ["h.0"] * 3 + ["h.1"] * 3
    assert found.notes[0] == "the layers are called otherwise: heads are matched by their place"
    assert len(found.heads) == 6


def test_what_only_one_has_is_said():
    a = checkpoints.whole()
    b = renamed(a, ("layers.1", "causal self", (0, 1, 2)), ("layers.2", "causal self", (0, 1, 2)))
    found = a.compared(b)
    assert {head.a.layer for head in found.heads} == {"layers.1"}
    assert {head.layer for head in found.only_a} == {"layers.0"}
    assert {head.layer for head in found.only_b} == {"layers.2"}


@pytest.mark.parametrize(
    "layers",
    [
        [("h.0", "causal self", (0, 1, 2, 3, 4, 5))],
        [("layers.0", "cross", (0, 1, 2)), ("layers.1", "cross", (0, 1, 2))],
    ],
)
def test_without_a_common_head_it_is_refused(layers):
    a = checkpoints.whole()
    with pytest.raises(
        ValueError, match=r"^no head of one is a head of the other: 2 layers with 6 heads, from layers\.0"
    ):
        a.compared(renamed(a, *layers))


def test_one_document_gives_no_interval():
    found = making.profile(13, 1).compared(making.profile(13, 1, seed=3))
    for head in found.heads:
        for one in head.differences.values():
            assert isnan(one.low)
            assert not one.sure
            assert one.as_json()["low"] is None


def test_what_must_be_known_is_said():
    a = making.profile(13, 3, settings={"max_tokens": 13})
    b = making.profile(13, 3, settings={"max_tokens": 64})
    notes = a.compared(b).notes
    assert "the settings 'max_tokens' differ: 13 and 64" in notes
    assert any("as a rule they are too wide" in note for note in notes)
    assert any("has not read its corpus to the end" in note for note in notes)
    other = a.compared(making.profile(13, 3, first=7, settings={"max_tokens": 13})).notes
    assert "they read other documents: what differs may be the documents" in other


def test_numbers_are_all_there(comparison):
    for head in comparison.heads:
        assert list(head.differences) == list(NUMBERS)
        assert not torch.tensor(head.differences["entropy"].difference).isnan()

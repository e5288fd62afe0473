"""`observation.save_picture`: the picture of one call."""

import matplotlib.image
import pytest
import torch

import pellucid
from pellucid.viewer.pictures import head_picture


def observed(q_len=5, k_len=5, **options):
    query, key = torch.randn(2, 3, q_len, 4), torch.randn(2, 3, k_len, 4)
    return pellucid.observe(query, key, key, **options)[1]


def test_a_picture_of_a_call(tmp_path, monkeypatch):
    seen, drawn = observed(is_causal=True), []
    monkeypatch.setattr(head_picture.HeadPicture, "save", lambda picture, path: drawn.append(picture))
    path = tmp_path / "head.png"
    assert seen.save_picture(path, tokens=[list("vwxyz"), list("abcde")], head=2, sequence=1) == path
    (picture,) = drawn
    torch.testing.assert_close(picture.weights, seen.weights(heads=2)[1, 0])
    assert (picture.queries.labels, picture.keys.labels) == (list("abcde"), list("abcde"))
    assert picture.title == "attention, head 2"
    seen.save_picture(path, pool="max", title="mine", queries=slice(1, 4))
    torch.testing.assert_close(drawn[1].weights, seen.weights(queries=slice(1, 4))[0].amax(0))
    assert drawn[1].title == "mine"


def test_cross_attention_has_two_texts(tmp_path):
    seen = observed(3, 7)
    seen.save_picture(tmp_path / "cross.png", tokens=[list("abc")] * 2, source_tokens=[list("defghij")] * 2)
    assert matplotlib.image.imread(tmp_path / "cross.png").shape[2] == 4
    assert str(seen.save_picture(str(tmp_path / "plain.svg"))).endswith("plain.svg")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": "a.gif"}, ValueError, r"path: must end in \.png, \.svg, \.pdf, got 'a\.gif'"),
        ({"head": 3}, IndexError, "head: there are 3, counted from 0, got 3"),
        ({"sequence": -1}, IndexError, "sequence: there are 2, counted from 0, got -1"),
        ({"pool": "sum"}, ValueError, "pool: one of mean, max, got 'sum'"),
        ({"queries": slice(5, 9)}, ValueError, "queries: a slice of neighbours among 5, not empty"),
        ({"keys": 3}, ValueError, "keys: a slice of neighbours among 5, not empty, got 3"),
        ({"tokens": ["a"]}, ValueError, "tokens"),
    ],
)
def test_what_cannot_be_drawn(tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        observed().save_picture(**{"path": "a.png", **options})

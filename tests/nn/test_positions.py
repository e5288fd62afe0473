import pytest
import torch

from pellucid import masks, readouts
from pellucid.language import trace
from pellucid.nn import KeyValueCache, SelfAttention
from pellucid.nn.positions import function_from, readouts_from


def place(b, h, q_idx, kv_idx):
    return b, h, q_idx, kv_idx


def score_and_place(score, b, h, q_idx, kv_idx):
    return score, b, h, q_idx, kv_idx


def test_only_queries_are_renumbered():
    assert function_from(place, 7)(2, 3, 5, 11) == (2, 3, 12, 11)
    assert function_from(score_and_place, 7)(0.5, 2, 3, 5, 11) == (0.5, 2, 3, 12, 11)


def test_from_the_start_everything_stays_what_it_was():
    chosen = [readouts.mean_distance()]
    assert function_from(place, 0) is place
    assert function_from(None, 7) is None
    assert readouts_from(chosen, 0) == chosen
    assert readouts_from(None, 7) is None


def test_readouts_without_positions_stay_what_they_were():
    entropy, distance = readouts.Entropy(), readouts.mean_distance()
    kept, moved = readouts_from([entropy, distance], 7)
    assert kept is entropy
    assert moved.name == "mean_distance"
    assert repr(moved.expression) == "cast(abs(sub(add(q, tensor[][]), k)))"


def test_every_step_is_the_same_expression():
    """The start is a tensor that is read, so that compiled code serves every step."""
    steps = [trace(function_from(masks.causal(), start), "mask_mod", ("b", "h", "q", "k")) for start in (7, 8)]
    assert repr(steps[0]) == repr(steps[1]) == "le(k, add(q, tensor[][]))"


def test_names_are_kept():
    assert function_from(place, 7).__name__ == "place"
    assert function_from(masks.causal(), 7).__name__ == "causal"


@torch.no_grad()
def test_errors_while_decoding_name_the_user_s_function():
    layer, cache = SelfAttention(12, 3, is_causal=True), KeyValueCache()
    layer(torch.ones(7, 12), cache=cache)

    def first_half(b, h, q_idx, kv_idx):
        return kv_idx < 3 if q_idx < 5 else kv_idx < 7

    with pytest.raises(TypeError, match=r"first_half.*branches on its argument"):
        layer(torch.ones(1, 12), cache=cache, mask_mod=first_half)

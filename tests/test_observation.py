"""The observation: names, shapes by the inputs' rank, and any part of the weights on demand."""

import copy
import pickle

import pytest
import torch

import pellucid
from pellucid.engines import using
from pellucid.readouts import Entropy, Expect, LogSumExp, TopK, mean_distance
from tests.cases import normal

HEADS, Q_LEN, K_LEN = 3, 5, 7


def make(*batch, heads=HEADS, readouts=None, **more):
    """An observation, and the weights that it is of."""
    query, key = normal(*batch, heads, Q_LEN, 4), normal(*batch, heads, K_LEN, 4, seed=1)
    _, seen = pellucid.observe(query, key, key, readouts=readouts, **more)
    return seen, (query @ key.mT / 2).softmax(-1)


def test_the_default_readouts():
    seen, weights = make(2)
    assert seen.readouts == ("lse", "entropy", "max_scores")
    assert seen.lse.shape == seen.entropy.shape == seen.max_scores.shape == (2, HEADS, Q_LEN)
    torch.testing.assert_close(seen.entropy, torch.special.entr(weights).sum(-1))


def test_attributes_items_and_what_it_contains():
    seen, _ = make(2, readouts=[Entropy(), mean_distance()])
    assert seen.entropy is seen["entropy"]
    assert seen.mean_distance is seen["mean_distance"]
    assert "mean_distance" in seen
    assert "topk" not in seen
    assert {"entropy", "mean_distance", "lse", "weights", "heads"} <= set(dir(seen))
    assert (seen.heads, seen.q_len, seen.k_len) == (HEADS, Q_LEN, K_LEN)
    assert repr(seen) == "Observation(3 heads, 5 queries x 7 keys: lse, entropy, mean_distance)"


def test_lse_is_always_there():
    seen, _ = make(2, readouts=[])
    plain, _ = make(2, readouts=[LogSumExp()])
    assert seen.readouts == ("lse",)
    torch.testing.assert_close(seen.lse, plain.lse)


def test_what_was_not_read_is_named():
    seen, _ = make(2, readouts=[Entropy()])
    with pytest.raises(AttributeError, match=r"'topk' was not read; pass its readout .* Read were: lse, entropy"):
        _ = seen.topk
    with pytest.raises(KeyError, match="'received' was not read"):
        seen["received"]
    assert not hasattr(seen, "received")


@pytest.mark.sampled
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda seen: pickle.loads(pickle.dumps(seen))])
@pytest.mark.parametrize("batch", [(2,), None])
def test_it_can_be_copied_and_stored(duplicate, batch):
    query = normal(5, 4) if batch is None else normal(*batch, HEADS, 5, 4)
    bias = normal(5)
    _, seen = pellucid.observe(
        query, query, query, is_causal=True, score_mod=lambda s, b, h, q, k: s + bias[q - k], readouts=[mean_distance()]
    )
    again = duplicate(seen)
    assert again.readouts == seen.readouts
    assert torch.equal(again.mean_distance, seen.mean_distance)
    assert torch.equal(again.weights(queries=2), seen.weights(queries=2))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_results_have_the_rank_of_the_inputs(batch):
    seen, weights = make(*batch, readouts=[TopK(2), mean_distance()])
    assert seen.topk.weights.shape == seen.topk.keys.shape == (*batch, HEADS, Q_LEN, 2)
    assert seen.mean_distance.shape == (*batch, HEADS, Q_LEN)
    torch.testing.assert_close(seen.weights(), weights)


def test_results_of_matrices_have_no_heads():
    query, key = normal(Q_LEN, 4), normal(K_LEN, 4, seed=1)
    _, seen = pellucid.observe(query, key, key, readouts=[Entropy(), TopK(2)])
    assert seen.entropy.shape == (Q_LEN,)
    assert seen.topk.keys.shape == (Q_LEN, 2)
    assert seen.weights(queries=2).shape == (1, K_LEN)
    assert seen.heads == 1


PARTS = {
    "all": (None, slice(None)),
    "slice": (slice(1, 4), slice(1, 4)),
    "from the end": (slice(-2, None), slice(-2, None)),
    "steps": (slice(None, None, 2), slice(None, None, 2)),
    "nothing": (slice(2, 2), slice(2, 2)),
    "index": (1, [1]),
    "last": (-1, [-1]),
    "several": ([2, 0, 0], [2, 0, 0]),
    "tensor": (torch.tensor([1, 2]), [1, 2]),
    "range": (range(3), [0, 1, 2]),
}


@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
@pytest.mark.parametrize("name", PARTS)
def test_any_part_of_the_weights(name, engine):
    given, meant = PARTS[name]
    with using(engine):
        seen, weights = make(2)
    torch.testing.assert_close(seen.weights(queries=given), weights[..., meant, :])
    torch.testing.assert_close(seen.weights(keys=given), weights[..., meant])
    torch.testing.assert_close(seen.weights(heads=given), weights[:, meant])
    both = weights[:, meant][..., meant, :][..., meant]
    torch.testing.assert_close(seen.weights(queries=given, keys=given, heads=given), both)


def test_none_and_small_whole_numbers_are_indices():
    seen, weights = make(2)
    assert seen.weights(queries=[]).shape == (2, HEADS, 0, K_LEN)
    chosen = torch.tensor([1, 0, 1, 1, 0], dtype=torch.uint8)  # no mask, as torch takes it for
    torch.testing.assert_close(seen.weights(queries=chosen), weights[..., chosen.long(), :])


def test_chosen_by_a_mask_of_bools():
    seen, weights = make(2)
    chosen = torch.tensor([True, False, True, False, True])
    torch.testing.assert_close(seen.weights(queries=chosen), weights[..., chosen, :])


@pytest.mark.parametrize("what", ["queries", "keys", "heads"])
@pytest.mark.parametrize("wrong", [7, -8, [0, 99], 1.5, "first", slice(None, None, -1), True, {1}, [True]])
def test_an_index_beyond_is_named(what, wrong):
    seen, _ = make(2)
    length = {"queries": Q_LEN, "keys": K_LEN, "heads": HEADS}[what]
    with pytest.raises(IndexError, match=rf"^{what}: a slice, or indices from -{length} to {length - 1}, got"):
        seen.weights(**{what: wrong})


@pytest.mark.parametrize("name", ["weights", "heads", "q_len", "readouts", "lse"])
def test_a_readout_may_not_have_a_name_that_is_taken(name):
    taken = pellucid.readouts.Expect(lambda b, h, q, k: k, name)
    with pytest.raises(ValueError, match=f"^readouts: Expect cannot be named '{name}': Observation has that already"):
        pellucid.observe(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), readouts=[taken])


def test_weights_follow_everything_in_the_call():
    query, key = normal(2, 4, Q_LEN, 4), normal(2, 2, K_LEN, 4, seed=1)
    sinks, bias = normal(4, seed=2), normal(4, Q_LEN, K_LEN, seed=3)
    _, seen = pellucid.observe(
        query, key, key, bias, is_causal=True, scale=0.3, enable_gqa=True, dropout_p=0.5, sinks=sinks,
        score_mod=lambda s, b, h, q, k: s * (h + 1), mask_mod=lambda b, h, q, k: k != 2, readouts=[],
    )  # fmt: skip
    scores = query @ key.repeat_interleave(2, 1).mT * 0.3 * torch.arange(1, 5)[:, None, None] + bias
    allowed = torch.ones(Q_LEN, K_LEN, dtype=torch.bool).tril() & (torch.arange(K_LEN) != 2)
    column = sinks[:, None, None].expand(2, 4, Q_LEN, 1)
    whole = torch.cat([scores.masked_fill(~allowed, -torch.inf), column], -1).softmax(-1)[..., :-1]
    torch.testing.assert_close(seen.weights(), whole)
    part = seen.weights(queries=slice(2, 4), keys=[6, 0], heads=[3, 1])
    torch.testing.assert_close(part, whole[:, [3, 1], 2:4][..., [6, 0]])


def test_weights_of_a_row_with_no_key_are_0():
    query = normal(HEADS, Q_LEN, 4)
    mask = torch.ones(Q_LEN, Q_LEN, dtype=torch.bool).tril(-1)
    _, seen = pellucid.observe(query, query, query, mask)
    weights = seen.weights()
    assert torch.equal(weights[:, 0], torch.zeros(HEADS, Q_LEN))
    torch.testing.assert_close(weights[:, 1:].sum(-1), torch.ones(HEADS, Q_LEN - 1, dtype=torch.float64))


def test_weights_have_no_gradient_and_float32_for_half_precision():
    query = normal(HEADS, Q_LEN, 4, dtype=torch.bfloat16).requires_grad_()
    _, seen = pellucid.observe(query, query, query)
    assert seen.weights().dtype == torch.float32
    assert not seen.weights().requires_grad


def test_two_readouts_of_one_name():
    with pytest.raises(ValueError, match=r"^readouts: more than one is named entropy"):
        make(2, readouts=[Entropy(), Entropy(sink=False)])
    with pytest.raises(ValueError, match=r"^readouts: more than one is named x"):
        make(2, readouts=[Expect(lambda b, h, q, k: k, "x"), Expect(lambda b, h, q, k: q, "x")])


def test_readouts_must_be_readouts():
    for wrong in (Entropy(), "entropy", 3):
        with pytest.raises(TypeError, match=r"^readouts: a list of readouts is needed, got"):
            make(2, readouts=wrong)
    for wrong in (Entropy, "entropy", None):
        with pytest.raises(TypeError, match=r"^readouts: each must be a readout such as pellucid.Entropy\(\), got"):
            make(2, readouts=[wrong])


@pytest.mark.parametrize("changed", ["query", "key", "bias", "table"])
def test_weights_of_tensors_that_were_changed_in_place_are_refused(changed: str) -> None:
    tensors = {"query": torch.randn(2, 5, 3), "key": torch.randn(2, 7, 3), "bias": torch.randn(5, 7)}
    tensors["table"] = torch.randn(7)
    _, seen = pellucid.observe(
        tensors["query"], tensors["key"], torch.randn(2, 7, 3), tensors["bias"],
        score_mod=lambda score, b, h, q, k: score + tensors["table"][k],
    )  # fmt: skip
    torch.testing.assert_close(seen.weights().sum(-1), torch.ones(2, 5))
    tensors[changed].mul_(2)
    for stale in (seen, copy.deepcopy(seen)):
        with pytest.raises(RuntimeError, match="changed in place"):
            stale.weights()

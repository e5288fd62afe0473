"""Calls of several ranks inside what torch has around calls: modes, second derivatives, dropout, checkpoints."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import Partial, Placement, Replicate, Shard

import pellucid
from pellucid import Entropy, MaxScore, Received
from pellucid.distributed import of_lengths
from tests.distributed import surroundings
from tests.distributed.cases import assert_same, together
from tests.distributed.ranks import Ranks
from tests.distributed.surroundings import BY_HEADS, BY_QUERIES, DIM, HEADS, K_LEN, NAMES, Q_LEN

pytestmark = pytest.mark.sampled

KINDS: dict[str, list[Placement] | None] = {"sequence": None, "by heads": BY_HEADS, "by queries": BY_QUERIES}
each_kind = pytest.mark.parametrize("placements", KINDS.values(), ids=KINDS)


def of_all(parts: list[Tensor], length: int, dim: int = 1) -> Tensor:
    """What ranks have of a sequence, as one."""
    return together(parts, of_lengths([part.shape[dim] for part in parts]), dim)


@each_kind
@pytest.mark.parametrize("mode", surroundings.MODES)
def test_modes_of_torch(ranks: Ranks, mode: str, placements: list[Placement] | None) -> None:
    each = ranks.run(surroundings.in_mode, mode, 3, placements, ranks=3)
    with surroundings.MODES[mode]():
        leaves = [tensor.requires_grad_() for tensor in surroundings.whole()]
        output, seen = pellucid.observe(*leaves, readouts=[Entropy(), Received()])
        exact = {"output": output, "entropy": seen.entropy, "received": seen.received, "weights": seen.weights()}
    found = {name: each[0][name] for name in exact}
    if placements is None:
        for name in ("output", "entropy", "received"):
            found[name] = of_all([own[name] for own in each], 1)
    assert_same(found, {name: t.detach().clone() for name, t in exact.items()}, output.dtype)
    assert [own["gradients"] for own in each] == [output.requires_grad] * 3


def twice_alone(readouts: list[Any]) -> list[Tensor]:
    leaves = [tensor.requires_grad_() for tensor in surroundings.whole(torch.float64)]

    def function(*tensors: Tensor) -> Any:
        return pellucid.observe(*tensors, is_causal=True, readouts=readouts)

    return surroundings.second_derivatives(function, leaves, lambda weights, _: weights)


def assert_close(found: list[Tensor], exact: list[Tensor], dtype: torch.dtype = torch.float64) -> None:
    assert_same(dict(enumerate(found)), dict(enumerate(exact)), dtype)  # type: ignore[arg-type]


def test_second_derivatives_of_a_sequence(ranks: Ranks) -> None:
    each = ranks.run(surroundings.twice_of_sequence, 3, ranks=3)
    assert_close([of_all(list(parts), 1) for parts in zip(*each, strict=True)], twice_alone([Entropy(), Received()]))


@pytest.mark.parametrize(
    ("shape", "placements"),
    [((3,), BY_HEADS), ((3,), BY_QUERIES), ((2, 2), [*BY_HEADS, *BY_QUERIES]), ((2,), [Partial()])],
    ids=str,
)
def test_second_derivatives_of_dtensors(ranks: Ranks, shape: tuple[int, ...], placements: list[Placement]) -> None:
    each = ranks.run(surroundings.twice_of_dtensors, shape, placements, ranks=torch.Size(shape).numel())
    for found in each:
        assert_close(found, twice_alone([Entropy(), Received(), MaxScore(per_head=True)]))


# Dropout.


def assert_as_dropped(found: list[Tensor]) -> None:
    """The output is that of the weights which were not dropped, and so is value's gradient; seeds repeat it."""
    output, again, other, weights, dropped, gradient = found
    value = surroundings.whole()[2]
    kept = weights.masked_fill(dropped, 0.0) / 0.6
    assert_close([output, gradient], [kept @ value, kept.mT @ torch.ones(HEADS, Q_LEN, DIM)], torch.float32)
    assert torch.equal(again, output)
    assert not torch.equal(other, output)
    assert 0.3 < dropped.float().mean() < 0.5
    rows = {tuple(row) for row in dropped.flatten(0, 1).tolist()}
    assert len(rows) > 0.9 * HEADS * Q_LEN  # each with places of its own


@pytest.mark.parametrize("count", [2, 3])
def test_dropout_of_a_sequence(ranks: Ranks, count: int) -> None:
    each = ranks.run(surroundings.dropping, count, ranks=count)
    output, again, other, gradient = (of_all([own[place] for own in each], 1) for place in (0, 1, 2, 5))
    for own in each:
        assert_as_dropped([output, again, other, *own[3:5], gradient])


@pytest.mark.parametrize(
    ("shape", "placements"),
    [
        ((3,), BY_HEADS),
        ((2,), BY_QUERIES),
        ((2,), [Replicate()]),
        ((2, 2), [Replicate(), Shard(1)]),
        ((2, 2), [Shard(1), Shard(0)]),
    ],
    ids=str,
)
def test_dropout_of_dtensors(ranks: Ranks, shape: tuple[int, ...], placements: list[Placement]) -> None:
    each = ranks.run(surroundings.dropping_dtensors, shape, placements, ranks=torch.Size(shape).numel())
    for own in each:
        assert_as_dropped(own[:-1])
    if placements[0] == Replicate():  # the same on ranks that have the same
        half = len(each) // 2
        assert all(torch.equal(one[-1], other[-1]) for one, other in zip(each[:half], each[half:], strict=True))


# Losses.


def alone_with_losses(which: list[list[str]]) -> list[Tensor]:
    """The gradients of the sum of the ranks' losses."""
    leaves = [tensor.requires_grad_() for tensor in surroundings.whole()]
    output, seen = pellucid.observe(*leaves, readouts=[Entropy(), Received(), MaxScore(per_head=True)])
    found = {"output": output, "entropy": seen.entropy, "received": seen.received}
    of_queries, of_keys, _ = surroundings.lengths_of(len(which))
    terms = []
    for rank, names in enumerate(which):
        for name in names:
            if name == "largest":
                terms.append(seen.head_max_scores.sin().sum())
            else:
                (span,) = (of_keys if name == "received" else of_queries).spans[rank]
                terms.append(found[name][:, span.start : span.stop].sin().sum())
    torch.stack(terms).sum().backward()
    return [leaf.grad for leaf in leaves]  # type: ignore[misc]


@pytest.mark.parametrize(
    "which",
    [
        [["output"], ["received"]],
        [["received"], ["largest"], ["entropy", "largest"]],
        [["output", "largest"], ["received", "entropy"]],
        [["entropy"], ["output"], ["received"]],
    ],
    ids=str,
)
def test_each_rank_has_a_loss_of_its_own(ranks: Ranks, which: list[list[str]]) -> None:
    each = ranks.run(surroundings.other_losses, len(which), which, ranks=len(which))
    assert_close([of_all([own[name] for own in each], 1) for name in NAMES], alone_with_losses(which), torch.float32)


# Afterwards.

REFUSED = r"ValueError: attention: rank 1 refuses its own arguments, so no rank computes; its error says why"


@each_kind
@pytest.mark.parametrize("place", [0, 1, 3], ids=["query", "key", "sinks"])
@pytest.mark.parametrize("inside", [False, True], ids=["itself", "its local part"])
def test_weights_of_what_was_changed(
    ranks: Ranks, place: int, inside: bool, placements: list[Placement] | None
) -> None:
    first, last = ranks.run(surroundings.changed, 2, place, inside, placements, ranks=2)
    assert first == [REFUSED, "nothing"]
    assert re.match(r"RuntimeError: weights: .* was changed in place since the call", last[0])
    assert last[1] == "nothing"


@each_kind
def test_ranks_ask_for_the_same_weights(ranks: Ranks, placements: list[Placement] | None) -> None:
    first, last = ranks.run(surroundings.asking, 2, placements, ranks=2)
    for text, name in zip(first, ("queries", "keys", "heads"), strict=False):
        assert re.match(rf"ValueError: {name}: the ranks of a sharded call must give the same; rank 0 has \(", text)
    assert first[:3] == last[:3]
    assert first[3] == REFUSED
    assert last[3] == f"IndexError: keys: a slice, or indices from -{K_LEN} to {K_LEN - 1}, got 99"
    assert first[4] == last[4] == f"IndexError: heads: a slice, or indices from -{HEADS} to {HEADS - 1}, got {HEADS}"


@each_kind
def test_an_observation_stays_where_it_is(ranks: Ranks, placements: list[Placement] | None) -> None:
    for texts in ranks.run(surroundings.copies, 2, placements, ranks=2):
        for text in texts[:3]:
            assert re.match(r"TypeError: an observation of a call of several ranks is bound to them", text)
        assert re.match(r"TypeError: view: the call lies on several ranks", texts[3])
        assert re.match(r"TypeError: save_picture: the call lies on several ranks", texts[4])


# Checkpoints.


@each_kind
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(ranks: Ranks, reentrant: bool, placements: list[Placement] | None) -> None:
    for found in ranks.run(surroundings.checkpointed, 3, reentrant, placements, ranks=3):
        assert_close(found[:4], found[4:], torch.float32)


# What a ring cannot see of a mask.


def test_a_mask_that_was_changed_before_backward(ranks: Ranks) -> None:
    for text in ranks.run(surroundings.ring_of_a_changed_mask, 2, ranks=2):
        assert re.match(r"RuntimeError: attention's backward: a mask or a captured tensor was changed in place", text)


def test_a_mask_of_all_ranks_does_not_travel(ranks: Ranks) -> None:
    for text in ranks.run(surroundings.ring_of_a_sharded_mask, (2,), ranks=2):
        assert re.match(r"ValueError: sending: this call's keys cannot travel in a ring: a captured DTensor", text)


@each_kind
def test_second_derivatives_through_a_ring(ranks: Ranks, placements: list[Placement] | None) -> None:
    for text in ranks.run(surroundings.ring_twice, 2, placements, ranks=2):
        assert re.match(r"RuntimeError: attention: keys and values have travelled in a ring, which has no second", text)

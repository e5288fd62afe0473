"""What a cache has given out never changes, whatever is done to the cache or to a copy of it afterwards."""

import contextlib
import copy
import io
import pickle
import threading

import pytest
import torch

from pellucid.nn import KeyValueCache
from pellucid.nn.room import Room, grown

MODES = {"grad": contextlib.nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
}


def stepped(cache: KeyValueCache, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the cache gives out for a step, and what that should stay."""
    key = torch.randn(2, 3, length, 5, generator=torch.Generator().manual_seed(seed))
    given = cache.append(key, -key)[0]
    return given, given.clone()


@pytest.mark.parametrize("mode", sorted(MODES))
def test_what_a_step_gave_stays_when_the_cache_goes_back_and_on(mode):
    cache = KeyValueCache(capacity=31)
    with MODES[mode]():
        given = [stepped(cache, 7, 0), stepped(cache, 3, 1)]
        for length, seed in ((8, 2), (0, 3), (5, 4)):
            cache.truncate(length)
            given += [stepped(cache, 2, seed), stepped(cache, 4, seed + 10)]
    assert all(torch.equal(now, then) for now, then in given)


@pytest.mark.parametrize("way", sorted(COPIES))
def test_copies_grow_apart(way):
    cache = KeyValueCache(capacity=31)
    with torch.no_grad():
        given = [stepped(cache, 7, 0)]
        other = COPIES[way](cache)
        assert (other.length, torch.equal(other.value, cache.value)) == (7, True)
        given += [stepped(one, 2, seed) for seed, one in enumerate((cache, other, cache, other), start=1)]
    assert all(torch.equal(now, then) for now, then in given)
    assert not torch.equal(cache.key, other.key)


def test_what_is_saved_is_what_is_held():
    cache = KeyValueCache(capacity=10_007)
    with torch.no_grad():
        stepped(cache, 7, 0)
    file = io.BytesIO()
    torch.save(cache, file)
    assert file.tell() < 10_000
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False).key, cache.key)


@torch.no_grad()
def test_of_threads_that_share_a_beginning_one_alone_writes_behind_it():
    beginning = torch.randn(2, 7, 5)
    room, held = grown(None, None, beginning, 101)
    start, given = threading.Barrier(5), {}

    def grow(number: int) -> None:
        start.wait()
        given[number] = grown(room, held, torch.full((2, 1, 5), float(number)), 101)[1]

    threads = [threading.Thread(target=grow, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, whole in given.items():
        assert torch.equal(whole[:, :7], beginning)
        assert torch.equal(whole[:, 7:], torch.full((2, 1, 5), float(number)))


@torch.no_grad()
def test_a_position_is_claimed_once():
    room = Room(torch.zeros(2, 11, 5), 3)
    held = room.memory[:, :3]
    assert [room.claim(held, 4), room.claim(held, 4)] == [True, False]
    assert not room.claim(room.memory[:, :4], 12)
    assert not room.claim(room.memory[:, :4].clone(), 5)
    assert room.claim(room.memory[:, :4], 5)


def test_gradients_of_what_was_given_out_survive_later_steps():
    cache, query = KeyValueCache(capacity=31), torch.randn(2, 3, 1, 5, requires_grad=True)
    with torch.no_grad():
        key, _ = stepped(cache, 7, 0)
    product = (query @ key.mT).sum()
    with torch.no_grad():
        stepped(cache, 1, 1)
    product.backward()
    torch.testing.assert_close(query.grad, key.sum(-2, keepdim=True))

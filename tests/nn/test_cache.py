import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.nn import KeyValueCache

MODES = {"grad": contextlib.nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=7),
    capacity=st.sampled_from([0, 1, 13]),
    modes=st.lists(st.sampled_from(sorted(MODES)), min_size=7, max_size=7),
)
def test_holds_what_was_appended_in_order_whatever_the_modes(lengths, capacity, modes):
    cache = KeyValueCache(capacity)
    keys = [torch.randn(2, 3, length, 5) for length in lengths]
    values = [torch.randn(2, 3, length, 5) for length in lengths]
    seen = []
    for key, value, mode in zip(keys, values, modes, strict=False):
        with MODES[mode]():
            seen.append(cache.append(key, value))
    for count, (key, value) in enumerate(seen, start=1):
        assert torch.equal(key, torch.cat(keys[:count], dim=-2))
        assert torch.equal(value, torch.cat(values[:count], dim=-2))
    assert torch.equal(cache.key, seen[-1][0])
    assert torch.equal(cache.value, seen[-1][1])
    assert cache.length == sum(lengths)


@torch.no_grad()
def test_reserved_memory_is_filled_in_place():
    cache = KeyValueCache(capacity=11)
    places = {cache.append(torch.ones(3, 1, 5), torch.ones(3, 1, 5))[0].data_ptr() for _ in range(11)}
    assert len(places) == 1


@torch.no_grad()
def test_copies_grow_with_the_logarithm_of_the_steps():
    cache = KeyValueCache()
    step = torch.ones(3, 1, 5)
    kept = [cache.append(step, step)[0] for _ in range(1000)]  # kept alive, so that an address means one allocation
    assert len({key.data_ptr() for key in kept}) == 11


def test_does_not_alias_what_it_is_given_without_gradients():
    cache = KeyValueCache()
    key = torch.ones(3, 2, 5)
    with torch.no_grad():
        cache.append(key, key)
    key.zero_()
    assert torch.equal(cache.key, torch.ones(3, 2, 5))


def test_gradients_flow_to_all_steps_and_later_steps_disturb_none():
    cache = KeyValueCache(capacity=11)
    steps = [torch.randn(3, 2, 5, requires_grad=True) for _ in range(3)]
    losses = []
    for step in steps:
        key, value = cache.append(step, 2 * step)
        losses.append(key.square().sum() + value.sum())  # square remembers its keys for the backward
    sum(losses).backward()
    for step, times in zip(steps, (3, 2, 1), strict=True):  # how many calls have seen this step
        torch.testing.assert_close(step.grad, times * (2 * step.detach() + 2))


@pytest.mark.parametrize("mode", sorted(MODES))
def test_forgotten_positions_are_replaced_by_the_next(mode):
    cache = KeyValueCache()
    old, new = torch.randn(3, 7, 5), torch.randn(3, 2, 5)
    with MODES[mode]():
        cache.append(old, -old)
        cache.truncate(4)
        assert torch.equal(cache.value, -old[:, :4])
        key, value = cache.append(new, -new)
    assert torch.equal(key, torch.cat((old[:, :4], new), dim=1))
    assert torch.equal(value, -key)


@pytest.mark.parametrize("length", [-1, 3])
def test_refuses_to_forget_what_it_does_not_hold(length):
    cache = KeyValueCache()
    cache.append(torch.ones(2, 5), torch.ones(2, 5))
    with pytest.raises(ValueError, match=f"length: must be from 0 to the 2 positions held, got {length}"):
        cache.truncate(length)


def test_an_empty_cache_says_so():
    cache = KeyValueCache()
    assert cache.length == 0
    assert repr(cache) == "KeyValueCache(length=0)"
    with pytest.raises(ValueError, match="cache: it is empty"):
        _ = cache.key
    with pytest.raises(ValueError, match="cache: it is empty"):
        _ = cache.value


def test_refuses_a_negative_capacity():
    with pytest.raises(ValueError, match="capacity: cannot be negative, got -1"):
        KeyValueCache(-1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            torch.ones(2, 3, 1, 5),
            torch.ones(2, 3, 2, 5),
            r"value: its shape \[2, 3, 2, 5\] must be key's \[2, 3, 1, 5\]",
        ),
        (torch.ones(7, 3, 1, 5), None, r"holds keys of shape \[2, 3, 'any', 5\] and was given \[7, 3, 1, 5\]"),
        (torch.ones(3, 1, 5), None, r"was given \[3, 1, 5\]"),
        (torch.ones(2, 3, 1, 7), None, r"was given \[2, 3, 1, 7\]"),
        (torch.ones(2, 3, 1, 5).double(), None, "holds torch.float32 on cpu and was given torch.float64"),
        (torch.ones(2, 3, 1, 5, device="meta"), None, "was given torch.float32 on meta"),
    ],
)
def test_refuses_what_does_not_fit_and_stays_as_it_was(key, value, message):
    cache = KeyValueCache()
    cache.append(torch.ones(2, 3, 4, 5), torch.ones(2, 3, 4, 5))
    with pytest.raises(ValueError, match=message):
        cache.append(key, key if value is None else value)
    assert cache.length == cache.key.shape[-2] == cache.value.shape[-2] == 4

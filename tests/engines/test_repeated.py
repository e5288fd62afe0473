"""Calls like an earlier one: what may differ from call to call still counts, and what must be looked at still is."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid.engines import repeated, using
from pellucid.engines.cpu.call import plan
from tests.cases import Call, dense, normal

QUERY, KEY, VALUE = normal(2, 3, 17, 8), normal(2, 3, 70, 8, seed=1), normal(2, 3, 70, 5, seed=2)


def exact(*tensors: Tensor, **more: object) -> Tensor:
    return dense(Call(*tensors), **more).output  # type: ignore[arg-type]


def twice(*tensors: Tensor, **more: object) -> Tensor:
    """The call's result when it is no longer the first of its kind."""
    pellucid.attention(*(torch.zeros_like(tensor) for tensor in tensors), **more)
    return pellucid.attention(*tensors, **more)


@pytest.mark.parametrize("shape", ["2-D", "3-D", "4-D", "5-D", "6-D"])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_other_numbers(shape, layout):
    ndim = int(shape[0])
    tensors = [t[0, 0] if ndim == 2 else t[0] if ndim == 3 else t.expand(*(2,) * (ndim - 4), *t.shape)
               for t in (QUERY, KEY, VALUE)]  # fmt: skip
    if layout == "transposed":
        tensors = [t.mT.contiguous().mT for t in tensors]
    torch.testing.assert_close(twice(*tensors), exact(*tensors))


def test_a_mask_that_changed_in_place():
    mask = normal(17, 70) < 0.5
    for change in (lambda: None, mask.logical_not_, lambda: mask[:, 3:].fill_(False)):
        change()
        torch.testing.assert_close(pellucid.attention(QUERY, KEY, VALUE, mask), exact(QUERY, KEY, VALUE, mask))


def test_a_long_mask_whose_blocks_are_tabulated():
    key, value = normal(2, 3, 700, 8, seed=1), normal(2, 3, 700, 5, seed=2)
    for length in (1, 300, 700):
        mask = (torch.arange(700) < length)[None, None, None]
        torch.testing.assert_close(pellucid.attention(QUERY, key, value, mask), exact(QUERY, key, value, mask))


def test_sinks_and_flags():
    for sinks in (normal(3), normal(3, seed=1), normal(6)[::2], normal(3, dtype=torch.float32)):
        found = pellucid.attention(QUERY, KEY, VALUE, sinks=sinks)
        torch.testing.assert_close(found, exact(QUERY, KEY, VALUE, sinks=sinks))
    for scale in (0.1, 0.7, None, 0.1):
        found = pellucid.attention(QUERY, KEY, VALUE, scale=scale)
        torch.testing.assert_close(found, dense(Call(QUERY, KEY, VALUE, scale=scale)).output)
    for causal in (False, True, False):
        found = pellucid.attention(QUERY, KEY, VALUE, is_causal=causal)
        torch.testing.assert_close(found, dense(Call(QUERY, KEY, VALUE, is_causal=causal)).output)


def test_a_closure_that_changed():
    held = {"limit": 0}

    def near(b: object, h: object, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return abs(q_idx - kv_idx) <= held["limit"]

    for held["limit"] in (3, 5, 3):
        expected = exact(QUERY, KEY, VALUE, mask_mod=near)
        torch.testing.assert_close(pellucid.attention(QUERY, KEY, VALUE, mask_mod=near), expected)


def test_a_captured_tensor_that_changed():
    held = {"table": normal(70)}

    def biased(score: Tensor, b: object, h: object, q_idx: object, kv_idx: Tensor) -> Tensor:
        return score + held["table"][kv_idx]

    for held["table"] in (normal(70), normal(70, seed=1), normal(2, 70)[1], normal(140)[::2], normal(71).float()):
        expected = exact(QUERY, KEY, VALUE, score_mod=biased)
        torch.testing.assert_close(pellucid.attention(QUERY, KEY, VALUE, score_mod=biased), expected)


def test_threads_do_not_share_a_calls_arguments():
    pellucid.attention(QUERY, KEY, VALUE)
    wrong: list[int] = []

    def work(seed: int) -> None:
        tensors = [normal(*t.shape, seed=seed + i) for i, t in enumerate((QUERY, KEY, VALUE))]
        expected = exact(*tensors)
        wrong.extend(seed for _ in range(300) if not torch.allclose(pellucid.attention(*tensors), expected))

    workers = [threading.Thread(target=work, args=(10 * i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_the_number_of_threads_may_change():
    before = torch.get_num_threads()
    query = normal(2, 3, 200, 8)
    try:
        results = []
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results += [pellucid.attention(query, query, query), pellucid.attention(query[:, :, :1], query, query)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], result) for result in results[::2])
    assert all(torch.equal(results[1], result) for result in results[1::2])


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(repeated, "MOST", 5)
    monkeypatch.setattr(plan, "MOST_PLANS", 5)
    for length in range(1, 12):
        key = normal(2, 3, length, 8)
        torch.testing.assert_close(pellucid.attention(QUERY, key, key), exact(QUERY, key, key))
    assert len(repeated._known) <= 5
    assert len(plan._plans) <= 5


def test_nothing_of_a_call_is_kept_alive():
    import gc
    import weakref

    query, mask = normal(2, 3, 19, 8), normal(19, 19) < 0.5
    pellucid.attention(query, query, query, mask)
    pellucid.observe(query, query, query)
    kept = [weakref.ref(query), weakref.ref(mask)]
    del query, mask
    gc.collect()
    assert not any(ref() is not None for ref in kept)


def test_bad_arguments_after_good_ones():
    pellucid.attention(QUERY, KEY, VALUE, is_causal=True, scale=1.0)
    for more, error in (
        ({"is_causal": 1, "scale": 1.0}, TypeError),
        ({"is_causal": True, "scale": "1"}, TypeError),
        ({"is_causal": True, "scale": 1.0, "dropout_p": 2.0}, ValueError),
        ({"is_causal": True, "scale": 1.0, "enable_gqa": 0}, TypeError),
    ):
        with pytest.raises(error):
            pellucid.attention(QUERY, KEY, VALUE, **more)
    with pytest.raises(TypeError, match="query's dtype"):
        pellucid.attention(QUERY, KEY.float(), VALUE, is_causal=True, scale=1.0)


def test_gradients_after_a_call_without():
    leaf = QUERY.clone().requires_grad_()
    with torch.no_grad():
        assert not pellucid.attention(leaf, KEY, VALUE).requires_grad
    assert pellucid.attention(leaf, KEY, VALUE).requires_grad
    assert not pellucid.attention(leaf.detach(), KEY, VALUE).requires_grad
    mask = normal(17, 70)
    pellucid.attention(QUERY, KEY, VALUE, mask)
    assert pellucid.attention(QUERY, KEY, VALUE, mask.requires_grad_()).requires_grad


def test_whoever_looks_on_sees_the_call():
    query, key, value = (tensor.float() for tensor in (QUERY, KEY, VALUE))
    plain = pellucid.attention(query, key, value)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pellucid.attention(query, key, value).dtype == torch.bfloat16
    with using("reference"):
        torch.testing.assert_close(pellucid.attention(query, key, value), plain)
    mapped = torch.vmap(pellucid.attention)(query, key, value)
    torch.testing.assert_close(mapped, plain)
    seen = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Watching():
        pellucid.attention(query, key, value)
    assert pellucid.attention in seen


def test_a_tensor_that_torch_negates_as_it_reads():
    negated = torch.complex(QUERY, QUERY).conj().imag
    assert negated.is_neg()
    pellucid.attention(-QUERY.mT.contiguous().mT, KEY, VALUE)
    torch.testing.assert_close(pellucid.attention(negated, KEY, VALUE), exact(-QUERY, KEY, VALUE))


def test_observations_of_calls_like_an_earlier_one():
    asked = [pellucid.LogSumExp(), pellucid.Entropy(), pellucid.TopK(3), pellucid.Received(), pellucid.Pooled(4, 5)]
    pellucid.observe(QUERY[0, 0], KEY[0, 0], VALUE[0, 0], readouts=asked, is_causal=True)
    other = [
        pellucid.LogSumExp(),
        pellucid.Entropy(),
        pellucid.TopK(3),
        pellucid.Received(slice(3, None)),
        pellucid.Pooled(2, 3),
    ]
    tensors = -QUERY[0, 1], KEY[1, 0], VALUE[1, 2]
    output, seen = pellucid.observe(*tensors, readouts=other, is_causal=True)
    with using("reference"):
        expected_output, expected = pellucid.observe(*tensors, readouts=other, is_causal=True)
    torch.testing.assert_close(output, expected_output)
    for name in expected.readouts:
        torch.testing.assert_close(seen[name], expected[name])
    torch.testing.assert_close(seen.weights(), expected.weights())

"""What is particular to one readout of a row: ties, sinks, rows with no key, gradients, errors."""

import math

import pytest
import torch
from hypothesis import given

import pellucid
from pellucid.engines import using
from pellucid.language import TraceError
from pellucid.readouts import Entropy, Expect, LogSumExp, MaxScore, TopK, mass_on_first, mass_on_previous, mean_distance
from pellucid.readouts.base import Dense
from tests.cases import examples, normal
from tests.readouts.rows import ROW_READOUTS, matrices, sinks, tile, weights, with_sink

ENGINES = ["reference", "portable", "cpu"]


def seen_with(scores, readouts, engine="portable", **more):
    """An observation of exactly these scores, [queries, keys]."""
    with using(engine):
        return pellucid.observe(
            torch.eye(scores.shape[0], dtype=scores.dtype), scores.mT.contiguous(), scores.mT, scale=1.0,
            readouts=readouts, **more,
        )[1]  # fmt: skip


@pytest.mark.parametrize("name", ROW_READOUTS)
@given(scores=matrices(), sink=sinks())
@examples(25)
def test_the_dense_definition_is_the_definition(name, scores, sink):
    readout, definition = ROW_READOUTS[name]
    lse = with_sink(scores, sink).logsumexp(-1)
    whole = tile(scores, torch.arange(scores.shape[-1]))
    found = readout.dense(Dense(scores, weights(scores, sink), lse, whole, sink))
    found = torch.nn.functional.pad(found.keys, (0, 4 - found.keys.shape[-1]), value=-1) if name == "top" else found
    torch.testing.assert_close(found, definition(scores, sink), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
class TestTopK:
    def test_equal_scores_come_by_rising_key(self, engine):
        scores = torch.tensor([[1.0, 3, 1, 3, 3, 1, 3, 0], [2.0, 2, 2, 2, 2, 2, 2, 2], [0.0, 1, 2, 3, 4, 5, 5, 5]])
        with pellucid.engines.portable.tiles(2, 3):
            seen = seen_with(scores, [TopK(5)], engine)
        assert seen.topk.keys.tolist() == [[1, 3, 4, 6, 0], [0, 1, 2, 3, 4], [5, 6, 7, 4, 3]]
        torch.testing.assert_close(seen.topk.weights, scores.softmax(-1).gather(-1, seen.topk.keys))

    def test_fewer_keys_than_k(self, engine):
        mask = torch.tensor([[True, False, True, False, False], [False] * 5, [True] * 5])
        with pellucid.engines.portable.tiles(2, 2):
            seen = seen_with(torch.arange(15.0).view(3, 5) / 8, [TopK(4)], engine, attn_mask=mask)
        assert seen.topk.keys.tolist() == [[2, 0, -1, -1], [-1, -1, -1, -1], [4, 3, 2, 1]]
        assert seen.topk.weights[0, 2:].tolist() == [0.0, 0.0]
        assert seen.topk.weights[1].tolist() == [0.0] * 4

    def test_all_keys(self, engine):
        scores = torch.randn(3, 7, dtype=torch.float64)
        seen = seen_with(scores, [TopK(7)], engine)
        torch.testing.assert_close(seen.topk.weights.sum(-1), torch.ones(3, dtype=torch.float64))
        assert torch.equal(seen.topk.keys, scores.argsort(descending=True))

    def test_its_keys_have_no_gradient(self, engine):
        query = torch.randn(3, 4, requires_grad=True)
        with using(engine):
            _, seen = pellucid.observe(query, query, query, readouts=[TopK(2)])
        assert seen.topk.weights.requires_grad
        with pytest.raises(RuntimeError, match="does not require grad"):
            seen.topk.keys.float().sum().backward()


def test_topk_errors():
    for k in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=r"^k: TopK takes a whole number of keys from 1, got"):
            TopK(k)
    with pytest.raises(ValueError, match=r"^k: TopK\(8\) asks for more keys than there are \(7\)"):
        seen_with(torch.zeros(3, 7), [TopK(8)])


@pytest.mark.parametrize("engine", ENGINES)
def test_entropy_with_a_sink_counted_and_not(engine):
    scores = torch.tensor([[0.0, 0.0, -torch.inf], [1.0, 1.0, 1.0], [-torch.inf] * 3], dtype=torch.float64)
    mask, raw = scores > -torch.inf, scores.clamp(min=0)
    sinks = torch.zeros(1, dtype=torch.float64)
    counted = seen_with(raw, [Entropy()], engine, attn_mask=mask, sinks=sinks).entropy
    keys = seen_with(raw, [Entropy(sink=False)], engine, attn_mask=mask, sinks=sinks).entropy
    shares = torch.tensor([math.e / (3 * math.e + 1)] * 3 + [1 / (3 * math.e + 1)], dtype=torch.float64)
    torch.testing.assert_close(counted, torch.tensor([math.log(3), torch.special.entr(shares).sum(), 0.0]).double())
    torch.testing.assert_close(keys, torch.tensor([math.log(2), math.log(3), 0.0], dtype=torch.float64))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sink_switched_off_is_no_sink(engine):
    query = torch.randn(3, 5, 4, dtype=torch.float64)
    readouts = [LogSumExp(), Entropy(), MaxScore(), mean_distance()]
    off = torch.full((3,), -torch.inf, dtype=torch.float64)
    mask = torch.ones(5, 5, dtype=torch.bool).tril(-1)  # the first row has no key
    with using(engine):
        output, seen = pellucid.observe(query, query, query, mask, sinks=off, readouts=readouts)
        expected, plain = pellucid.observe(query, query, query, mask, readouts=readouts)
    torch.testing.assert_close(output, expected)
    for name in plain.readouts:
        torch.testing.assert_close(seen[name], plain[name])


@pytest.mark.parametrize("engine", ["reference", "portable"])
def test_gradients_are_finite_where_nothing_is_allowed(engine):
    query = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    sinks = torch.tensor([-torch.inf, 0.5], dtype=torch.float64, requires_grad=True)
    masks = [torch.ones(5, 5, dtype=torch.bool).tril(-1)]
    masks.append(torch.zeros(5, 5, dtype=torch.float64).masked_fill(~masks[0], -torch.inf))
    for mask in masks:
        for sink in (None, sinks):
            readouts = [LogSumExp(), Entropy(), MaxScore(), mean_distance()]
            key = query.detach()
            with using(engine):
                output, seen = pellucid.observe(query, key, key, mask, sinks=sink, readouts=readouts)
            results = [output, *(seen[name] for name in seen.readouts)]
            wanted = [query] if sink is None else [query, sink]
            gradients = torch.autograd.grad(results, wanted, [torch.ones_like(result) for result in results])
            assert all(g.isfinite().all() for g in gradients)
            assert torch.equal(gradients[0][:, 0], torch.zeros(2, 4))
            assert gradients[0][:, 1:].abs().min() > 0


@pytest.mark.parametrize("engine", ["reference", "portable"])
def test_what_a_function_is_under_the_mask_does_not_matter(engine):
    query = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    table = torch.tensor([1.0, 2, torch.nan, torch.inf, 5, 6, 7], dtype=torch.float64, requires_grad=True)
    keep = table.isfinite()
    with using(engine), pellucid.engines.portable.tiles(3, 2):
        output, seen = pellucid.observe(
            query, query, query, mask_mod=lambda b, h, q, k: keep[k],
            readouts=[Expect(lambda b, h, q, k: table[k] * table[k], "square")],
        )  # fmt: skip
    exact = (query @ query.mT / 2)[:, keep].softmax(-1) @ table[keep] ** 2
    torch.testing.assert_close(seen["square"], exact)
    upstream = torch.randn(7, dtype=torch.float64)
    found = torch.autograd.grad(seen["square"] @ upstream + 0 * output.sum(), [query, table])
    expected = torch.autograd.grad(exact @ upstream, [query, table])
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1][keep], expected[1][keep])
    if engine != "reference":  # there it is torch's own 0 * NaN
        assert not found[1][~keep].any()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_named_expectations(engine):
    scores = torch.randn(5, 11, dtype=torch.float64)
    seen = seen_with(scores, [mean_distance(), mass_on_first(), mass_on_previous()], engine)
    shares = scores.softmax(-1)
    far = (torch.arange(5)[:, None] - torch.arange(11)).abs()
    torch.testing.assert_close(seen["mean_distance"], (shares * far).sum(-1))
    torch.testing.assert_close(seen["mass_on_first"], shares[:, 0])
    torch.testing.assert_close(seen["mass_on_previous"], torch.cat([torch.zeros(1), shares.diagonal(-1)]).double())


def test_the_gradient_of_the_entropy_of_the_keys_with_a_sink():
    query, sinks = normal(3, 7, 4).requires_grad_(), normal(3, seed=1).requires_grad_()
    upstream = normal(3, 7, seed=2)
    found = []
    for engine in ("reference", "portable"):
        with using(engine), pellucid.engines.portable.tiles(2, 3):
            _, seen = pellucid.observe(query, query, query, sinks=sinks, readouts=[Entropy(sink=False)])
        found.append(torch.autograd.grad((seen.entropy * upstream).sum(), [query, sinks], materialize_grads=True))
    torch.testing.assert_close(found[1], found[0])
    assert not found[1][1].any()


@pytest.mark.parametrize("engine", ["reference", "portable"])
def test_of_equal_maxima_the_first_has_the_gradient(engine):
    scores = torch.tensor([[1.0, 3, 3, 0, 3], [2.0, 1, 0, 2, -1]], dtype=torch.float64)
    key = scores.mT.contiguous().requires_grad_()
    with using(engine), pellucid.engines.portable.tiles(2, 2):
        _, seen = pellucid.observe(torch.eye(2, dtype=torch.float64), key, key, scale=1.0, readouts=[MaxScore()])
    seen.max_scores.sum().backward()
    assert key.grad.mT.tolist() == [[0.0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


def branch(b, h, q, k):
    return q if q > k else k


def test_expect_errors():
    with pytest.raises(TypeError, match=r"^name: Expect needs a name to be found by, got ''"):
        Expect(lambda b, h, q, k: q, "")
    with pytest.raises(TraceError, match=r"^Expect '<lambda>': expected 4 parameters"):
        Expect(lambda q, k: q, "q")
    with pytest.raises(TraceError, match=r"^Expect 'branch': it branches"):
        Expect(branch, "branch")


def test_a_readout_prints_its_name():
    assert repr([Entropy(), mean_distance()]) == "[<readout entropy>, <readout mean_distance>]"

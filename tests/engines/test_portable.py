"""The portable engine from inside: tilings, skipped tiles, what autograd saves, what is not differentiable twice."""

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pellucid
from pellucid import masks, scores
from pellucid.engines import portable, using
from pellucid.language import evaluate
from pellucid.problem import Problem
from pellucid.readouts import Entropy, Expect, LogSumExp, MaxScore, Pooled, Received, TopK, mean_distance
from tests.cases import ENGINES, examples, normal, running

BATCH, HEADS, Q_LEN, K_LEN, DIM, VALUE_DIM = 2, 3, 13, 17, 5, 7
TILES = [(1, 1), (2, 3), (5, 17), (13, 4), (13, 17), (1000, 1000)]


@pytest.fixture(autouse=True)
def on_portable():
    with using("portable"):
        yield


def tensors():
    """Query, key, value, sinks, slopes and a table, each needing a gradient."""
    ends = (Q_LEN, DIM), (K_LEN, DIM), (K_LEN, VALUE_DIM)
    leading = (BATCH, HEADS), (BATCH, 1), (1, HEADS)
    shapes = [*(a + b for a, b in zip(leading, ends, strict=True)), (HEADS,), (HEADS,), (K_LEN,)]
    return [normal(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


def observed(query, key, value, sinks, slopes, table, dropout_p=0.0, readouts=None):
    """Everything at once: a score function, two masks, a sink, readouts, maybe dropout."""
    torch.manual_seed(3)
    mask = normal(HEADS, Q_LEN, K_LEN, seed=11) < 1.0
    mask[:, 4] = False
    return pellucid.observe(
        query, key, value, mask, dropout_p=dropout_p, sinks=sinks,
        score_mod=scores.chain(scores.alibi(slopes), scores.softcap(3.0)), mask_mod=masks.causal(4),
        readouts=readouts or [
            LogSumExp(), Entropy(), MaxScore(), TopK(3), Received(slice(2, None, 3)), Pooled(4, 5), mean_distance(),
            Expect(lambda b, h, q, k: table[k] * (h + 1), "table"),
        ],
    )  # fmt: skip


def everything(dropout_p=0.0):
    """All results and all gradients of one call."""
    leaves = tensors()
    output, seen = observed(*leaves, dropout_p=dropout_p)
    names = ("lse", "entropy", "max_scores", "mean_distance", "table", "received", "pooled")
    results = [output, *(seen[name] for name in names), seen.topk.weights]
    upstream = [normal(*r.shape, seed=20 + i) for i, r in enumerate(results)]
    finite = [(r.masked_fill(r == -torch.inf, 0.0) * u).sum() for r, u in zip(results, upstream, strict=True)]
    gradients = torch.autograd.grad(sum(finite), leaves)
    return [*results, seen.topk.keys, *gradients]


@pytest.mark.parametrize("dropout_p", [0.0, 0.25])
@pytest.mark.parametrize("tile", TILES)
def test_tiles_change_nothing_and_the_reference_agrees(tile, dropout_p):
    with using("reference"):
        expected = everything(dropout_p)
    with portable.tiles(*tile):
        found = everything(dropout_p)
    for mine, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-11)


@given(st.integers(0, 23), st.integers(0, 23), st.integers(1, 9), st.integers(1, 9), st.sampled_from((1, 2, 6)))
@examples(60)
def test_any_lengths_and_any_tiles(q_len, k_len, q_tile, k_tile, kv_heads):
    query, key = normal(6, q_len, 3), normal(kv_heads, k_len, 3, seed=1)
    results = []
    for engine in ("reference", "portable"):
        with using(engine), portable.tiles(q_tile, k_tile):
            output, seen = pellucid.observe(
                query, key, key, is_causal=True, enable_gqa=True, readouts=[Entropy(), Received(), MaxScore()]
            )
        results.append([output, seen.lse, seen.entropy, seen.received, seen.max_scores])
    for mine, exact in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
def test_only_the_value_may_have_the_heads_or_the_batch(engine):
    query, key, value = normal(1, 1, 5, 4), normal(1, 1, 7, 4, seed=1), normal(2, 3, 7, 4, seed=2).requires_grad_()
    readouts = [Entropy(), MaxScore(), TopK(2), Received(), Pooled(2, 3), mean_distance()]
    grad = engine != "cpu"
    with using(engine), torch.set_grad_enabled(grad):
        output, seen = pellucid.observe(query, key, value, readouts=readouts)
    weights = (query @ key.mT / 2).softmax(-1).expand(2, 3, 5, 7)
    torch.testing.assert_close(output, weights @ value)
    torch.testing.assert_close(seen.entropy, torch.special.entr(weights).sum(-1))
    torch.testing.assert_close(seen.received, weights.sum(-2))
    assert seen.max_scores.shape == seen["mean_distance"].shape == (2, 3, 5)
    assert seen.topk.keys.shape == (2, 3, 5, 2)
    assert seen.pooled.shape == (2, 3, 2, 3)
    torch.testing.assert_close(seen.weights(heads=slice(1, 3)), weights[:, 1:])
    if grad:
        (gradient,) = torch.autograd.grad(output.sum(), value)
        torch.testing.assert_close(gradient, weights.sum(-2)[..., None].expand_as(value))


@pytest.fixture
def visited(monkeypatch):
    """The tiles that are computed, as (first query, first key, whether the mask was not needed)."""
    seen = []
    original = portable._tile

    def counted(problem, queries, keys, full):
        if keys.start != keys.stop:
            seen.append((queries.start, keys.start, full))
        return original(problem, queries, keys, full)

    monkeypatch.setattr(portable, "_tile", counted)
    return seen


def test_empty_tiles_are_skipped_and_full_ones_need_no_mask(visited):
    query = normal(2, 12, 4)
    with portable.tiles(4, 3):
        pellucid.attention(query, query, query, is_causal=True)
    assert visited == [
        (0, 0, False), (0, 3, False),
        (4, 0, True), (4, 3, False), (4, 6, False),
        (8, 0, True), (8, 3, True), (8, 6, True), (8, 9, False),
    ]  # fmt: skip


def test_the_mask_of_a_full_tile_is_not_evaluated(monkeypatch):
    masked = []

    def counted(*roots, **options):
        masked.append(roots[1].op)
        return evaluate(*roots, **options)

    monkeypatch.setattr("pellucid.problem.evaluate", counted)
    query = normal(2, 12, 4)
    with portable.tiles(4, 3):
        pellucid.attention(query, query, query, is_causal=True)
    assert masked == ["ge"] * 5


@pytest.mark.parametrize(
    ("mask", "count"),
    [
        (masks.sliding_window(3, 0), 7),
        (masks.documents(torch.tensor([0] * 4 + [1] * 8 + [2] * 4)), 6),
        (masks.prefix(4), 4),
        (masks.causal(-100), 0),
        (lambda b, h, q, k: torch.zeros(16, 16, dtype=torch.bool)[q, k], 0),
        (lambda b, h, q, k: (q // 4 + k // 4) % 2 == 0, 8),
    ],
)
def test_tiles_of_any_mask_are_skipped(mask, count, visited):
    query = normal(2, 16, 4)
    with portable.tiles(4, 4):
        pellucid.attention(query, query, query, mask_mod=mask)
    assert len(visited) == count


def test_a_score_of_minus_infinity_is_skipped_too(visited):
    query = normal(2, 16, 4)
    with portable.tiles(4, 4):
        output = pellucid.attention(
            query, query, query, score_mod=lambda s, b, h, q, k: torch.where(q >= k, s, -float("inf"))
        )
    assert len(visited) == 10
    torch.testing.assert_close(output, pellucid.attention(query, query, query, is_causal=True))


def test_attn_mask_tensors_are_skipped_where_they_are_false(visited):
    query = normal(2, 16, 4)
    with portable.tiles(4, 4):
        pellucid.attention(query, query, query, torch.ones(16, 16).tril().bool())
    assert len(visited) == 10


def test_backward_skips_the_same_tiles(monkeypatch):
    computed = []
    original = portable._Backward._scores

    def counted(self, queries, keys, tile, raw, gradient):
        computed.append((queries.start, keys.start))
        return original(self, queries, keys, tile, raw, gradient)

    monkeypatch.setattr(portable._Backward, "_scores", counted)
    query = normal(2, 12, 4).requires_grad_()
    with portable.tiles(4, 4):
        pellucid.attention(query, query, query, is_causal=True).sum().backward()
    assert computed == [(0, 0), (4, 0), (4, 4), (8, 0), (8, 4), (8, 8)]


CHANGED = {
    "query": lambda t, mask, table, output, seen: t[0].data_ptr() and t[0].detach().mul_(2),
    "value": lambda t, mask, table, output, seen: t[2].detach().zero_(),
    "attn_mask": lambda t, mask, table, output, seen: mask.neg_(),
    "captured": lambda t, mask, table, output, seen: table.add_(1),
    "output": lambda t, mask, table, output, seen: output.detach().mul_(2),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_change_in_place_before_backward_is_noticed(what):
    leaves = [normal(2, 5, 4, seed=i).requires_grad_() for i in range(3)]
    inputs = [leaf * 1 for leaf in leaves]
    mask, table = normal(5, 5, seed=3), torch.arange(5)
    output, seen = pellucid.observe(*inputs, mask, mask_mod=lambda b, h, q, k: table[k] < 4)
    CHANGED[what](inputs, mask, table, output, seen)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_change_of_a_reading_in_place_is_harmless():
    query = normal(2, 5, 4).requires_grad_()
    output, seen = pellucid.observe(query, query, query)
    expected = torch.autograd.grad(output.sum() + seen.lse.sum(), query, retain_graph=True)
    for name in ("entropy", "max_scores"):
        seen[name].detach().zero_()
    assert torch.equal(torch.autograd.grad(output.sum() + seen.lse.sum(), query)[0], expected[0])


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ENGINES)
def test_differentiating_twice(engine):
    query, key, value = (normal(2, 3, 2, seed=seed).requires_grad_() for seed in range(3))
    sinks = normal(2).requires_grad_()

    def loss(query, key, value, sinks):
        call = {"sinks": sinks, "is_causal": True, "readouts": [pellucid.LogSumExp(), pellucid.Entropy()]}
        output, seen = pellucid.observe(query[None], key[None], value[None], **call)
        return output, seen.lse, seen.entropy

    with running(engine):
        assert torch.autograd.gradgradcheck(loss, (query, key, value, sinks))


def test_backward_twice_with_the_graph_retained():
    query = normal(2, 5, 4).requires_grad_()
    output = pellucid.attention(query, query, query)
    first, second = (torch.autograd.grad(output.sum(), query, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_only_what_is_used_gets_a_gradient():
    query, key, value, sinks, slopes, table = tensors()
    output, seen = observed(query, key, value, sinks, slopes, table)
    (unused,) = torch.autograd.grad(output.sum(), table, retain_graph=True)
    assert torch.equal(unused, torch.zeros_like(table))
    torch.autograd.grad(seen["table"].sum(), [value], allow_unused=True, retain_graph=True)
    torch.autograd.grad(seen.received.sum() + seen.pooled.sum() + seen.topk.weights.sum(), [query])
    assert not seen.topk.keys.requires_grad


def test_no_graph_is_made_where_none_is_wanted():
    query = normal(2, 5, 4).requires_grad_()
    with torch.no_grad():
        output, seen = pellucid.observe(query, query, query)
    assert not output.requires_grad
    assert not seen.lse.requires_grad
    output, _ = pellucid.observe(query.detach(), query.detach(), query.detach())
    assert not output.requires_grad


def test_a_captured_tensor_alone_may_need_a_gradient():
    query, table = normal(2, 5, 4), normal(5).requires_grad_()
    output = pellucid.attention(query, query, query, score_mod=lambda s, b, h, q, k: s + table[k])
    exact = (query @ query.mT / 2 + table).softmax(-1) @ query
    upstream = normal(2, 5, 4, seed=5)
    found, expected = (torch.autograd.grad((o * upstream).sum(), table)[0] for o in (output, exact))
    torch.testing.assert_close(found, expected)


def test_the_same_tensor_captured_twice_gets_both_gradients():
    query, table = normal(2, 5, 4), normal(5).requires_grad_()
    output = pellucid.attention(query, query, query, score_mod=lambda s, b, h, q, k: s * table[k] + table[q] * table[k])
    exact = (query @ query.mT / 2 * table + table[:, None] * table).softmax(-1) @ query
    upstream = normal(2, 5, 4, seed=5)
    found, expected = (torch.autograd.grad((o * upstream).sum(), table)[0] for o in (output, exact))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    query, key, value = (normal(2, n, 4, seed=n).to(dtype).requires_grad_() for n in (11, 13, 13))
    with portable.tiles(3, 4):
        output, seen = pellucid.observe(query, key, value)
    exact = pellucid.attention(query.detach().double(), key.detach().double(), value.detach().double())
    assert (output.dtype, seen.lse.dtype) == (dtype, torch.float32)
    assert (output - exact).abs().max() <= torch.finfo(dtype).eps * exact.abs().max()
    gradients = torch.autograd.grad(output.float().sum() + seen.entropy.sum(), [query, key, value])
    assert {g.dtype for g in gradients} == {dtype}


def test_autocast_does_not_reach_inside():
    leaves = [normal(2, 11, 4, dtype=torch.float32, seed=i).requires_grad_() for i in range(3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, seen = pellucid.observe(*leaves)
        found = torch.autograd.grad(output.float().sum(), leaves)
        weights = seen.weights()
    halves = [leaf.detach().bfloat16().requires_grad_() for leaf in leaves]
    expected, plain = pellucid.observe(*halves)
    assert torch.equal(output, expected)
    assert torch.equal(weights, plain.weights())
    for mine, exact in zip(found, torch.autograd.grad(expected.float().sum(), halves), strict=True):
        assert torch.equal(mine, exact.float())


def test_nothing_is_kept_alive():
    query = normal(2, 5, 4).requires_grad_() * 1
    alive = weakref.ref(query)
    output, seen = pellucid.observe(query, query, query)
    output.sum().backward()
    del query, output, seen
    assert alive() is None


def test_block_sizes_keep_a_tile_near_its_size():
    sizes = ((1, 1, 65536), (1, 256, 65536), (12, 2048, 2048), (32, 8192, 8192), (1, 7, 5), (768, 50, 50))
    for heads, q_len, k_len in sizes:
        query, key = torch.empty(1, q_len, 1), torch.empty(1, k_len, 1)
        rows, keys = portable._block_sizes(Problem(query, key, key, (), heads, 1.0))
        assert heads * min(rows, q_len) * min(keys, k_len) <= 2 * portable.TILE
        assert rows >= 32
        assert keys >= 64


@pytest.mark.parametrize("by", [-1, 0, 1])
def test_lengths_at_the_edge_of_its_own_blocks(by):
    heads, many = 2, 1 << 14
    query, key = torch.empty(heads, many, 1), torch.empty(heads, many, 1)
    q_block, k_block = portable._block_sizes(Problem(query, key, key, (), heads, 1.0))
    query, key = normal(heads, q_block + by, 5), normal(heads, 2 * k_block - by, 5, seed=1)
    found, exact = [], []
    for engine, results in (("portable", found), ("reference", exact)):
        with using(engine):
            output, seen = pellucid.observe(
                query, key, key, is_causal=True, readouts=[Entropy(), TopK(3), Received(), Pooled(7, 11)]
            )
            results += [output, seen.lse, seen.entropy, *seen.topk, seen.received, seen.pooled]
    for mine, dense in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, dense, rtol=1e-10, atol=1e-11)

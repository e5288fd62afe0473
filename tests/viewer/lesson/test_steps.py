import pytest
import torch

import pellucid
from pellucid.nn import CrossAttention, SelfAttention
from pellucid.viewer.lesson.steps import layer_lesson, notebook_lessons


def test_self_attention_is_the_textbooks_own_example():
    torch.manual_seed(3)
    x, W_q, W_k, W_v = torch.rand(10, 4), torch.rand(4, 4), torch.rand(4, 4), torch.rand(4, 4)
    weights = torch.softmax((x @ W_q) @ (x @ W_k).T / 4**0.5, dim=-1)

    lesson, _ = notebook_lessons(tokens=10, dim=4, context=6, seed=3)
    torch.testing.assert_close(lesson.tokens, x, rtol=0, atol=0)
    torch.testing.assert_close(lesson.weights, weights)
    torch.testing.assert_close(lesson.attended, weights @ (x @ W_v))
    assert lesson.context is None


def test_cross_attention_takes_keys_and_values_from_the_context():
    own, other = notebook_lessons(tokens=7, dim=3, context=5, seed=0)
    torch.testing.assert_close(other.tokens, own.tokens, rtol=0, atol=0)
    assert other.context.shape == (5, 3)
    assert (other.query.shape, other.key.shape, other.value.shape) == ((7, 3), (5, 3), (5, 3))
    projection = torch.linalg.lstsq(other.context, other.key).solution
    torch.testing.assert_close(other.context @ projection, other.key, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.weights, torch.softmax(other.query @ other.key.T / 3**0.5, dim=-1))


def test_the_seed_decides_and_touches_no_other_generator():
    before = torch.get_rng_state()
    first, again, other = (notebook_lessons(5, 3, 4, seed)[1].context for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (10, 4, 6), (37, 29, 5)])
def test_library_and_formulas_agree(sizes):
    for lesson in notebook_lessons(*sizes, seed=0):
        assert len(lesson.agreement()) == 5
        scale = max(1.0, float(lesson.scores.abs().max()))
        assert max(lesson.agreement().values()) < 1e-5 * scale


def test_agreement_tells_a_library_that_is_wrong(monkeypatch):
    lesson, _ = notebook_lessons(5, 3, 4, seed=0)
    monkeypatch.setattr(pellucid, "attention", lambda query, key, value: value + 1.0)
    agreement = lesson.agreement()
    assert agreement["weights @ V  and  pellucid.attention(Q, K, V)"] > 0.1
    assert agreement["softmax(scores)  and  observation.weights()"] < 1e-5


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_heads_of_a_layer_add_up_to_its_output(kv_heads):
    torch.manual_seed(0)
    layer = SelfAttention(18, 6, kv_heads=kv_heads, head_dim=4, rotary=100.0, output_projection=False)
    x = torch.randn(1, 7, 18)
    lessons = [layer_lesson(layer, [x], head, "abcdefg", "abcdefg") for head in range(6)]
    torch.testing.assert_close(torch.cat([lesson.attended for lesson in lessons], dim=-1), layer(x)[0])
    assert lessons[0].context is None
    assert lessons[0].query_labels == tuple("abcdefg")


def test_heads_of_cross_attention_add_up_to_its_output():
    torch.manual_seed(0)
    layer = CrossAttention(12, 3, context_dim=5, output_projection=False)
    x, context = torch.randn(1, 7, 12), torch.randn(1, 4, 5)
    lessons = [layer_lesson(layer, [x, context], head, "abcdefg", "wxyz") for head in range(3)]
    torch.testing.assert_close(torch.cat([lesson.attended for lesson in lessons], dim=-1), layer(x, context)[0])
    torch.testing.assert_close(lessons[0].context, context[0])


@pytest.mark.parametrize("head", [-1, 3])
def test_a_head_that_there_is_not(head):
    with pytest.raises(ValueError, match=f"^head: the layer has 0-2, got {head}$"):
        layer_lesson(SelfAttention(12, 3), [torch.randn(1, 7, 12)], head, "abcdefg", "abcdefg")


@pytest.mark.parametrize("kv_heads", [2, 6])
def test_projections_make_the_queries_keys_and_values(kv_heads):
    torch.manual_seed(0)
    layer = SelfAttention(18, 6, kv_heads=kv_heads, head_dim=4, rotary=100.0)
    other = CrossAttention(12, 6, context_dim=5, kv_heads=kv_heads, bias=False)
    lessons = [
        *notebook_lessons(5, 3, 4, seed=0),
        layer_lesson(layer, [torch.randn(1, 7, 18)], 4, "abcdefg", "abcdefg"),
        layer_lesson(other, [torch.randn(1, 7, 12), torch.randn(1, 4, 5)], 4, "abcdefg", "wxyz"),
    ]
    for lesson in lessons:
        source = lesson.tokens if lesson.context is None else lesson.context
        turned = lesson.rotary or (lambda projected: projected)
        made = [
            x @ p.weight + (0 if p.bias is None else p.bias)
            for x, p in zip((lesson.tokens, source, source), lesson.projections, strict=True)
        ]
        torch.testing.assert_close(turned(made[0]), lesson.query)
        torch.testing.assert_close(turned(made[1]), lesson.key)
        torch.testing.assert_close(made[2], lesson.value)
    assert lessons[2].rotary is layer.rotary
    assert lessons[3].projections[0].bias is None

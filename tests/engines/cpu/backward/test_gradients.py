"""The backward kernel's gradients against float64, for every kind of call that it runs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pellucid
from pellucid import engines
from pellucid.engines import portable
from tests.cases import examples
from tests.engines.cpu.backward.calls import (
    DTYPES,
    KINDS,
    OWN_DIMS,
    PRODUCT,
    Shape,
    any_sizes,
    assert_right,
    gradients,
    sizes,
    tensors,
)
from tests.thorough import in_turn, thorough


def check(kind: str, shape: Shape, dtype: torch.dtype) -> None:
    """A call's gradients are as near to float64 as torch's operations."""
    made = tensors(shape, dtype)
    call = KINDS[kind](shape[0], *shape[2:4])
    exact = gradients("reference", [tensor.double() for tensor in made], call)
    assert_right(gradients("cpu", made, call), exact, made, gradients("reference", made, call))


@pytest.mark.sampled
@pytest.mark.parametrize(("kind", "dtype"), thorough(PRODUCT, in_turn(KINDS, DTYPES), share=11), ids=str)
def test_any_call(kind: str, dtype: torch.dtype) -> None:
    @examples(4)
    @given(shape=sizes(kind))
    def right(shape: Shape) -> None:
        check(kind, shape, dtype)

    right()


@pytest.mark.parametrize(
    ("kind", "k_len", "dtype"),
    thorough(
        [("plain", 1, torch.bfloat16), ("sinks", 17, torch.float32), ("float mask", 2, torch.float64)],
        [("plain", 1, torch.bfloat16), ("sinks", 17, torch.float32)],
    ),
    ids=str,
)
def test_few_keys(kind: str, k_len: int, dtype: torch.dtype) -> None:
    """For them kernels have fewer registers."""
    for q_len in (1, 49):
        check(kind, (4, 2, q_len, k_len, *OWN_DIMS[kind]), dtype)


@pytest.mark.thorough
def test_any_call_of_any_size() -> None:
    @examples(32, "cpu")
    @given(kind=st.sampled_from(list(KINDS)), shape=any_sizes(), dtype=st.sampled_from(DTYPES))
    def right(kind: str, shape: Shape, dtype: torch.dtype) -> None:
        check(kind, shape, dtype)

    right()


def test_gradients_of_tensors_that_are_broadcast() -> None:
    query, key, value = torch.randn(1, 1, 50, 8), torch.randn(3, 1, 2, 40, 8), torch.randn(4, 1, 40, 5)
    upstream = torch.randn(3, 4, 2, 50, 5)
    call = {"readouts": [pellucid.LogSumExp()]}

    def found(engine: str) -> tuple[torch.Tensor, ...]:
        leaves = [tensor.double().requires_grad_() for tensor in (query, key, value)]
        with engines.using(engine):
            assert engines.why(*leaves, **call).engine == engine
            output, _ = pellucid.observe(*leaves, **call)
            return torch.autograd.grad(output, leaves, upstream.double().expand_as(output))

    for own, exact in zip(found("cpu"), found("reference"), strict=True):
        assert own.shape == exact.shape
        torch.testing.assert_close(own, exact, rtol=1e-12, atol=1e-12)


def test_strides_of_everything() -> None:
    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape)

    layouts = {
        "transposed": lambda: some(2, 60, 3, 16).transpose(1, 2),
        "columns": lambda: some(2, 3, 60, 40)[..., 8:24],
        "rows apart": lambda: some(2, 3, 120, 16)[:, :, ::2],
        "no unit stride": lambda: some(2, 3, 16, 60).mT,
        "expanded": lambda: some(1, 3, 60, 16).expand(2, 3, 60, 16),
        "one number": lambda: some(1, 1, 1, 1).expand(2, 3, 60, 16),
    }
    for first in layouts.values():
        for second in layouts.values():
            leaves = [first(), second(), first()]
            upstream = second()
            for engine in ("cpu", "reference"):
                own = [leaf.double().requires_grad_() for leaf in leaves]
                with engines.using(engine):
                    made = torch.autograd.grad(pellucid.attention(*own), own, upstream.double())
                if engine == "cpu":
                    compiled = made
            for one, other in zip(compiled, made, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_only_what_is_wanted_gets_a_gradient() -> None:
    query, key, value = torch.randn(3, 2, 30, 8).unbind(0)
    key.requires_grad_()
    with engines.using("cpu"):
        pellucid.attention(query, key, value).sum().backward()
    assert query.grad is None
    assert value.grad is None
    assert key.grad is not None


def test_rows_of_huge_scores_are_differentiated_by_the_portable_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their weights come from one computation of their scores, forward and backward."""
    asked = []
    usual = portable.gradients
    monkeypatch.setattr(portable, "gradients", lambda *given: asked.append(1) or usual(*given))
    query, key, value = (
        (100 * torch.randn(1, 20, 64)).requires_grad_(),
        100 * torch.randn(1, 20, 64),
        torch.randn(1, 20, 8),
    )
    with engines.using("cpu"):
        assert engines.why(query, key, value).engine == "cpu"
        (found,) = torch.autograd.grad(pellucid.attention(query, key, value).square().sum(), query)
    assert asked
    assert found.isfinite().all()


def test_rows_without_keys_have_no_gradient() -> None:
    tensors = [torch.randn(1, 2, 70, 16).requires_grad_() for _ in range(3)]
    with engines.using("cpu"):
        output, seen = pellucid.observe(*tensors, mask_mod=lambda b, h, q, k: q > 50, readouts=[pellucid.LogSumExp()])
        found = torch.autograd.grad(output.sum() + seen.lse[..., 51:].sum(), tensors)
    assert all(gradient.isfinite().all() for gradient in found)
    assert (found[0][..., :51, :] == 0).all()


def test_a_nan_stays_in_its_row_and_reaches_the_keys() -> None:
    query, key, value = (torch.randn(1, 1, 70, 16) for _ in range(3))
    query[0, 0, 7, 3] = torch.nan
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    with engines.using("cpu"):
        of_query, of_key, of_value = torch.autograd.grad(pellucid.attention(*leaves).sum(), leaves)
    assert of_query[0, 0, 7].isnan().all()
    assert of_query[0, 0, :7].isfinite().all()
    assert of_key.isnan().all()
    assert of_value.isnan().all()


def test_a_key_of_nan_makes_all_weights_of_its_rows_nan() -> None:
    query, key, value = (torch.randn(1, 1, 70, 16) for _ in range(3))
    key[0, 0, 7, 3] = torch.nan
    found = []
    for engine in ("cpu", "reference"):
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        with engines.using(engine):
            found.append(torch.autograd.grad(pellucid.attention(*leaves, is_causal=True).sum(), leaves))
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, equal_nan=True)


def test_precision_in_bfloat16_is_flat() -> None:
    """torch adds up gradients in bfloat16, and its error grows with the length."""
    made = [torch.randn(1, 1, 4096, 64) for _ in range(4)]
    attend = torch.nn.functional.scaled_dot_product_attention

    def found(function, dtype: torch.dtype):  # type: ignore[no-untyped-def]
        leaves = [tensor.to(dtype).requires_grad_() for tensor in made[:3]]
        return torch.autograd.grad(function(*leaves), leaves, made[3].to(dtype))

    rounded = [tensor.bfloat16().float() for tensor in made]
    made = rounded
    exact = found(attend, torch.float64)
    for own, peer, true in zip(
        found(pellucid.attention, torch.bfloat16), found(attend, torch.bfloat16), exact, strict=True
    ):
        error, other = ((some.double() - true).norm() / true.norm() for some in (own, peer))
        assert error < 2.6e-3
        assert error < 0.65 * other

"""Gradients of what functions captured: tables, slopes, masks, wherever a function's index leads."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines, scores
from pellucid.arguments import asked, describe
from pellucid.engines.cpu.call import captured
from pellucid.engines.cpu.call.gradients import for_gradients
from pellucid.engines.cpu.machine.target import host
from pellucid.engines.rounded import is_rounded
from tests.engines.cpu.backward.calls import DTYPES, assert_compiled, assert_right, tensors
from tests.engines.cpu.forked import exit_code, forked
from tests.engines.cpu.protected import Guarded
from tests.engines.cpu.test_batch import threads
from tests.engines.cpu.test_protected_page import EDGES, Edge
from tests.thorough import in_turn, thorough

Draw = Callable[..., Tensor]
Kind = tuple[dict[str, Any], list[Tensor]]  # a call, and the tensors that it captures


def mask(*shape: int) -> Callable[..., Kind]:
    """A float mask; -1 stands for the batch, -2 for the heads, -3 for the queries and -4 for the keys."""

    def kind(draw: Draw, heads: int, q_len: int, k_len: int) -> Kind:
        made = draw(*({-1: 2, -2: heads, -3: q_len, -4: k_len}.get(size, size) for size in shape))
        return {"attn_mask": made}, [made]

    return kind


def by_function(call: Callable[..., Any], *shapes: Callable[[int, int, int], tuple[int, ...]]) -> Callable[..., Kind]:
    """A score_mod, made of the captured tensors and the lengths."""

    def kind(draw: Draw, heads: int, q_len: int, k_len: int) -> Kind:
        made = [draw(*shape(heads, q_len, k_len)) for shape in shapes]
        return {"score_mod": call(q_len, k_len, *made)}, made

    return kind


def table(heads: int, q_len: int, k_len: int) -> tuple[int, ...]:
    return heads, 2 * MIDDLE


def slopes(heads: int, q_len: int, k_len: int) -> tuple[int, ...]:
    return (heads,)


def number(heads: int, q_len: int, k_len: int) -> tuple[int, ...]:
    return ()


def keys(heads: int, q_len: int, k_len: int) -> tuple[int, ...]:
    return (k_len,)


def grid(heads: int, q_len: int, k_len: int) -> tuple[int, ...]:
    return q_len, k_len + 3


def shuffled(size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(3))


ORDER = shuffled(2000)
MIDDLE = 1100  # of tables of any lengths, for a number in a function is one in its kernel


def causal(kind: Callable[..., Kind]) -> Callable[..., Kind]:
    def both(*sizes: Any) -> Kind:
        call, made = kind(*sizes)
        return call | {"is_causal": True}, made

    return both


def expanded(draw: Draw, heads: int, q_len: int, k_len: int) -> Kind:
    made = draw(1, heads, 1, k_len)
    return {"attn_mask": made.expand(2, heads, q_len, k_len)}, [made]


def sliced(draw: Draw, heads: int, q_len: int, k_len: int) -> Kind:
    made = draw(k_len + 2, q_len * 2)
    return {"attn_mask": made.mT[::2, 1:-1]}, [made]


def forbidding(draw: Draw, heads: int, q_len: int, k_len: int) -> Kind:
    made = draw(2, 1, q_len, k_len)
    with torch.no_grad():
        made[shuffled(made.numel()).view(made.shape) % 3 == 0] = -torch.inf
        made[:, :, 0] = -torch.inf
    return {"attn_mask": made}, [made]


# A table that few keys have the same of: neighbours go backwards, forwards, or none is beside another.
relative = by_function(lambda q_len, k_len, t: lambda s, b, h, q, k: s + t[h, q - k + MIDDLE], table)
KINDS: dict[str, Callable[..., Kind]] = {
    "relative": relative,
    "relative, causal": causal(relative),
    "forwards": by_function(lambda q_len, k_len, t: lambda s, b, h, q, k: s * t[h, k - q + MIDDLE], table),
    "buckets": by_function(lambda q_len, k_len, t: scores.relative_bias(t), lambda h, q, k: (32, h)),
    "buckets of all heads": by_function(
        lambda q_len, k_len, t: lambda s, b, h, q, k: s * t[(q - k).abs() // 7], lambda h, q, k: (q + k,)
    ),
    "shuffled": by_function(
        lambda q_len, k_len, t: lambda s, b, h, q, k: s + t[h, ORDER[q + k] % (2 * MIDDLE)] * torch.tanh(s), table
    ),
    "alibi": by_function(lambda q_len, k_len, t: lambda s, b, h, q, k: s - t[h] ** 2 * (q - k).abs(), slopes),
    "temperature": by_function(lambda q_len, k_len, t: lambda s, b, h, q, k: s * t, number),
    "keys": by_function(lambda q_len, k_len, t: lambda s, b, h, q, k: torch.tanh(s) + t[k] ** 2, keys),
    "beyond the keys": by_function(lambda q_len, k_len, t: lambda s, b, h, q, k: s * t[q, k] + t[q, k + 2], grid),
    "by score": by_function(lambda q_len, k_len, t: lambda s, b, h, q, k: s * t[h, (s > 0) * k], table),
    "several": by_function(
        lambda q_len, k_len, t, p, x: (
            lambda s, b, h, q, k: s * t[h, q - k + MIDDLE] + torch.exp(t[h, k]) * p[h] + x * s
        ),
        table, slopes, number,
    ),
    "logarithm where none is": causal(
        by_function(lambda q_len, k_len, t: lambda s, b, h, q, k: s - t[h] * torch.log(1.0 * (q - k) + 1), slopes)
    ),
    "mask": mask(-1, -2, -3, -4),
    "mask, causal": causal(mask(-1, -2, -3, -4)),
    "mask of all": mask(-3, -4),
    "mask of a batch": mask(-1, 1, -3, -4),
    "mask of heads": mask(1, -2, -3, -4),
    "mask of keys": mask(-1, 1, 1, -4),
    "mask of queries": mask(1, 1, -3, 1),
    "mask, expanded": expanded,
    "mask, strided": sliced,
    "mask with -inf": forbidding,
}  # fmt: skip
# Heads, heads of keys, and the other sizes.
SIZE = (4, 2, 61, 519, 24, 16)
OTHER_SIZES = [(2, 2, 49, 37, 24, 16), (3, 1, 1, 300, 24, 16), (2, 2, 49, 37, 8, 8), (3, 1, 1, 300, 5, 3)]
PRODUCT = list(itertools.product(KINDS, DTYPES))
# One of each way into memory.
WAYS = ("relative", "shuffled", "temperature", "several", "mask", "mask, causal", "mask of all")
EVERY_WAY = in_turn(WAYS, (torch.float32, torch.bfloat16, torch.float64))
EVERY_DAY = [*EVERY_WAY, *in_turn(("buckets", "by score", "alibi", "mask with -inf"), DTYPES, 2)]


def drawn(kind: str, size: Sequence[int], dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Any], list[Tensor]]:
    """Query, key, value and the output's gradient; a call; and what it captures."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

    return tensors(size, dtype), *KINDS[kind](draw, size[0], *size[2:4])


def gradients(engine: str, made: Sequence[Tensor], call: dict[str, Any], of: Sequence[Tensor]) -> list[Tensor]:
    *inputs, upstream = made
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with engines.using(engine):
        if engine == "cpu":
            assert_compiled(*leaves, enable_gqa=True, **call)
        output, seen = pellucid.observe(*leaves, readouts=[pellucid.LogSumExp()], enable_gqa=True, **call)
        assert not is_rounded(seen.lse).any()  # which the portable engine does
        some = torch.where(seen.lse.isfinite(), seen.lse, 0.0)
        loss = (output.to(some.dtype) * upstream).sum() + some.sin().sum()
        return list(torch.autograd.grad(loss, [*leaves, *of], retain_graph=True))


@pytest.mark.sampled
@pytest.mark.parametrize(("kind", "dtype"), thorough(PRODUCT, EVERY_DAY, share=43), ids=str)
def test_any_way_to_an_element(kind: str, dtype: torch.dtype) -> None:
    if dtype == torch.float16 and not host().half:
        pytest.skip("this processor leaves float16 to the portable engine")
    assert_gradients(kind, SIZE, dtype)


@pytest.mark.parametrize("kind", thorough(["several", "mask"], ["several"]))
def test_few_queries_and_keys(kind: str) -> None:
    for size in OTHER_SIZES[:2]:
        assert_gradients(kind, size, torch.float32 if kind == "several" else torch.bfloat16)


@pytest.mark.parametrize(("kind", "dtype"), thorough(PRODUCT, (), share=97), ids=str)
def test_any_way_in_other_sizes(kind: str, dtype: torch.dtype) -> None:
    if dtype == torch.float16 and not host().half:
        pytest.skip("this processor leaves float16 to the portable engine")
    for size in OTHER_SIZES:
        assert_gradients(kind, size, dtype)


def assert_gradients(kind: str, size: Sequence[int], dtype: torch.dtype) -> None:
    """They are at most twice as far from float64 as the portable engine's, and a few units in the last place."""
    computed = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    made, call, of = drawn(kind, size, dtype)
    found = gradients("cpu", made, call, of)
    assert [tensor.dtype for tensor in found[3:]] == [tensor.dtype for tensor in of]
    usual = gradients("portable", made, call, of)
    _, wide, of_wide = drawn(kind, size, torch.float64)
    with torch.no_grad():
        for tensor, own in zip(of_wide, of, strict=True):
            tensor.copy_(own)
    exact = gradients("portable", [tensor.double() for tensor in made], wide, of_wide)
    assert_right(found[:3], exact[:3], made, usual[:3])
    for one, other, true in zip(found[3:], usual[3:], exact[3:], strict=True):
        # What is added up may cancel: a shift of all of a row's scores changes nothing.
        added = 64 * computed * (true.norm() + made[3].double().norm())
        limit = 2 * (other.double() - true).norm() + 2 * torch.finfo(dtype).eps * true.norm() + added
        assert (one.double() - true).norm() <= limit, kind


@pytest.mark.parametrize("kind", thorough(KINDS, ["forwards", "several", "mask, causal"], share=7))
def test_finite_differences(kind: str) -> None:
    if kind in ("by score", "mask with -inf"):
        pytest.skip("no derivative at each place")
    made, call, of = drawn(kind, (2, 1, 5, 7, 3, 2), torch.float64)
    leaves = [tensor.requires_grad_() for tensor in made[:3]]

    def attend(*given: Tensor) -> Tensor:
        return pellucid.attention(*given[:3], enable_gqa=True, **call)

    with engines.using("cpu"):
        assert_compiled(*leaves, enable_gqa=True, **call)
        assert torch.autograd.gradcheck(attend, [*leaves, *of], fast_mode=True)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("kind", "dtype"),
    thorough([case for case in PRODUCT if case[1] != torch.float16], EVERY_WAY, share=67),
    ids=str,
)
def test_the_same_bits_for_any_number_of_threads(kind: str, dtype: torch.dtype) -> None:
    made, call, of = drawn(kind, (4, 2, 200, 1100, 24, 16), dtype)
    with threads(1):
        alone = gradients("cpu", made, call, of)
    for several in (2, 3, 3):
        with threads(several):
            again = gradients("cpu", made, call, of)
        assert all(torch.equal(one, other) for one, other in zip(alone, again, strict=True)), several


@pytest.mark.parametrize("kind", thorough(["relative", "alibi", "mask", "forwards"], ["relative", "alibi"]))
def test_a_head_is_its_own(kind: str) -> None:
    made, call, of = drawn(kind, (4, 4, 100, 600, 24, 16), torch.float32)
    together = gradients("cpu", made, call, of)[3]

    def draw(*shape: int) -> Tensor:
        part = of[0].detach()[:, 2:3] if kind == "mask" else of[0].detach()[2:3]
        assert part.shape == torch.Size(shape)
        return part.clone().requires_grad_()

    call, of_one = KINDS[kind](draw, 1, 100, 600)
    alone = gradients("cpu", [tensor[:, 2:3] for tensor in made], call, of_one)[3]
    assert torch.equal(alone, together[:, 2:3] if kind == "mask" else together[2:3])


def test_a_large_table_has_fewer_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    made, call, of = drawn("relative", (4, 2, 100, 2500, 24, 16), torch.float32)
    usual = gradients("cpu", made, call, of)
    size = of[0].numel() * captured.BYTES

    def parts() -> tuple[int, ...]:
        problem, _ = describe(asked(*made[:3], enable_gqa=True, **call))
        spec, program = for_gradients(problem)
        (copies,) = captured.shares_of(problem, spec.captures, program.roots, 2).tensors.values()
        return tuple(copies.shape[:2])

    assert parts() == (1, 5)
    for most, expected in ((size * 4, (1, 2)), (size, (1, 1)), (0, (1, 1))):
        monkeypatch.setattr(captured, "MOST_COPIED", most)
        assert parts() == expected
        for one, other in zip(gradients("cpu", made, call, of), usual, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(-3, -4), (1, 1, -3, -4), (-1, 1, -3, -4), (-1, -2, -3, -4)])
def test_a_mask_is_not_copied(shape: tuple[int, ...]) -> None:
    heads, q_len, k_len = 2, 64, 700
    call, (made,) = mask(*shape)(lambda *size: torch.randn(*size).bfloat16().requires_grad_(), heads, q_len, k_len)
    query, key, value, _ = tensors((heads, heads, q_len, k_len, 8, 8), torch.bfloat16)
    problem, _ = describe(asked(query, key, value, **call))
    spec, program = for_gradients(problem)
    (gradient,) = captured.shares_of(problem, spec.captures, program.roots, 1).tensors.values()
    assert gradient.shape == (1, 1, *made.shape)
    assert gradient.dtype == (torch.bfloat16 if shape[0] == -1 and shape[1] == -2 else torch.float32)


def test_what_is_captured_beside() -> None:
    """Whole numbers, what needs no gradient, and a tensor that the function does not depend on."""
    query, key, value, upstream = tensors((2, 2, 50, 70, 8, 8), torch.float64)
    bias, fixed, unused = (torch.randn(2, 9, dtype=torch.float64) for _ in range(3))
    ids = torch.arange(120) % 9
    bias.requires_grad_(), unused.requires_grad_()

    def attend(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s + bias[h, ids[q + k]] * fixed[h, ids[k]] + 0.0 * (unused[h, ids[k]] > 0)

    def found(engine: str) -> tuple[Tensor, ...]:
        with engines.using(engine):
            output = pellucid.attention(query, key, value, score_mod=attend)
            return torch.autograd.grad((output * upstream).sum(), (bias, unused), materialize_grads=True)

    for one, other in zip(found("cpu"), found("reference"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_beside_dropout() -> None:
    made, call, of = drawn("several", (4, 2, 61, 300, 24, 16), torch.float64)
    leaves = [tensor.requires_grad_() for tensor in made[:3]]
    found = []
    for engine in ("cpu", "reference"):
        torch.manual_seed(3)
        with engines.using(engine):
            output = pellucid.attention(*leaves, enable_gqa=True, dropout_p=0.3, **call)
            found.append(torch.autograd.grad(output, [*leaves, *of], made[3], retain_graph=True))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_nan_is_not_hidden() -> None:
    query, key, value = (torch.randn(1, 2, 70, 16) for _ in range(3))
    query[0, 0, 7, 3] = torch.nan
    bias = torch.zeros(2, 140, requires_grad=True)
    with engines.using("cpu"):
        output = pellucid.attention(
            query.requires_grad_(), key, value, score_mod=lambda s, b, h, q, k: s + bias[h, q - k + 70]
        )
        of_query, of_bias = torch.autograd.grad(output.sum(), (query, bias))
    assert of_query[0, 0, 7].isnan().all()
    assert of_query[0, 1].isfinite().all()
    assert of_bias[0].isnan().any()
    assert of_bias[1].isfinite().all()


def test_many_terms_are_added_up_as_well_as_by_torch() -> None:
    made = tensors((2, 2, 900, 900, 8, 8), torch.float32)
    temperature, bias = torch.tensor(0.7, requires_grad=True), torch.randn(900, requires_grad=True)
    call = {"score_mod": lambda s, b, h, q, k: s * temperature + bias[k]}
    found = gradients("cpu", made, call, [temperature, bias])[3:]
    dense = gradients("reference", made, call, [temperature, bias])[3:]
    with torch.no_grad():
        wide = [temperature.double().requires_grad_(), bias.double().requires_grad_()]
    call = {"score_mod": lambda s, b, h, q, k: s * wide[0] + wide[1][k]}
    exact = gradients("reference", [tensor.double() for tensor in made], call, wide)[3:]
    for one, other, true in zip(found, dense, exact, strict=True):
        assert (one - true).norm() <= 2 * (other - true).norm() + 1e-6 * true.norm()


def stays_inside(kinds: Sequence[tuple[str, torch.dtype]], edge: Edge, dims: tuple[int, int]) -> bool:
    for kind, dtype in kinds:
        made, call, of = drawn(kind, (4, 2, 49, 257, *dims), dtype)
        of = [edge(tensor.detach()).requires_grad_() for tensor in of]
        given = iter(of)
        call, _ = KINDS[kind](lambda *_, given=given: next(given), 4, 49, 257)
        *leaves, upstream = (edge(tensor) for tensor in made)
        leaves = [tensor.requires_grad_() for tensor in leaves]
        with engines.using("cpu"), Guarded(edge):
            output, _ = pellucid.observe(*leaves, readouts=[pellucid.LogSumExp()], enable_gqa=True, **call)
            found = torch.autograd.grad(output, [*leaves, *of], upstream, retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in found), kind
    return True


@pytest.mark.sampled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("edge", EDGES)
def test_nothing_outside(edge: str) -> None:
    assert exit_code(forked(lambda: stays_inside(EVERY_WAY, EDGES[edge], (24, 16))), 300) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(("kind", "dtype"), thorough(itertools.product(WAYS, DTYPES[:3]), (), share=23), ids=str)
def test_nothing_outside_in_odd_dims(kind: str, dtype: torch.dtype) -> None:
    for edge in EDGES.values():
        assert exit_code(forked(lambda edge=edge: stays_inside([(kind, dtype)], edge, (17, 8))), 300) == 0

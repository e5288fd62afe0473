"""Functions as people write them for FlexAttention, in every engine: values and gradients are the definition's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import pellucid
from pellucid.language import read, trace, write
from pellucid.language.evaluate import TORCH
from pellucid.language.expression import RANK
from pellucid.record.disk.expression_json import Captured, from_json, results_of, to_json
from tests.cases import DIFFERENTIABLE, ENGINES, Call, assert_close, dense, largest, normal, running, tolerance

BATCH, HEADS, Q_LEN, K_LEN, DIM = 2, 3, 13, 17, 5
WIDTH = 5  # of a picture whose rows follow one another
POINTS, OTHERS = normal(K_LEN, 3, seed=11), normal(K_LEN, 3, seed=12)
PICTURE = torch.stack([torch.arange(K_LEN) // WIDTH, torch.arange(K_LEN) % WIDTH], -1)
TABLE, FREQUENCIES = normal(HEADS, 32, seed=13), torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
LONG, LONG_TOO = normal(K_LEN, 64, seed=14), normal(K_LEN, 64, seed=15)
GLOBAL, MEMBERS = torch.tensor([0, 7, 12]), torch.tensor([0b011, 0b110, 0b100, 0b001, 0b111] * 4)
GROUPS = torch.arange(K_LEN) // 4
Function = Callable[..., Any]


def t5_buckets(s: Any, b: Any, h: Any, q: Any, k: Any, table: Tensor = TABLE) -> Any:
    distance = (q - k).abs()
    far = 8 + (torch.log((distance.double() + 0.5) / 8) / torch.log(torch.tensor(4.0)) * 8).long()
    return s + table[h, torch.where(distance < 8, distance, torch.clamp(far, max=15)) + 16 * (q < k)]


def rotary(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    angles = (q - k) * FREQUENCIES
    return s + (torch.cos(angles) - torch.sin(angles) / 4).sum(-1)


def natten(b: Any, h: Any, q: Any, k: Any) -> Any:
    row, column = q // WIDTH, q % WIDTH
    return ((row - torch.div(k, WIDTH, rounding_mode="floor")).abs() <= 1) & ((column - k % WIDTH).abs() <= 2)


def tiles_2d(b: Any, h: Any, q: Any, k: Any) -> Any:
    (y, x), (other_y, other_x) = PICTURE[q], PICTURE[k]
    return torch.hypot((y - other_y).double(), (x - other_x).double()) < 2.5


SCORES: dict[str, Function] = {
    "alibi": lambda s, b, h, q, k: s + torch.exp2(-((h + 1) * 8.0 / HEADS)) * (k - q),
    "alibi of a varying base": lambda s, b, h, q, k: s - torch.pow(1.5 + h, -0.5 * (h + 1)) * (q - k).abs(),
    "softcap": lambda s, b, h, q, k: 2.0 * torch.tanh(s / 2.0),
    "sigmoid bias": lambda s, b, h, q, k: s + F.logsigmoid(s - 0.5 * h),
    "gelu": lambda s, b, h, q, k: F.gelu(s) + F.gelu(s * 0.5, approximate="tanh"),
    "activations": lambda s, b, h, q, k: F.silu(s) + F.softplus(s, beta=2.0) + F.elu(s) + F.mish(s) + F.softsign(s),
    "rotary": rotary,
    "buckets of T5": t5_buckets,
    "log distance": lambda s, b, h, q, k: s - torch.log1p((q - k).abs().double()) * torch.log10(h + 2.0),
    "gaussian of points": lambda s, b, h, q, k: s + torch.exp(-(POINTS[q] - OTHERS[k]).pow(2).sum(-1) / 2),
    "distance": lambda s, b, h, q, k: s - torch.linalg.norm(POINTS[q] - OTHERS[k]),
    "dot": lambda s, b, h, q, k: s + torch.dot(POINTS[q], OTHERS[k]),
    "long dot": lambda s, b, h, q, k: s + (LONG[q] * LONG_TOO[k]).sum(-1) / 8,
    "einsum": lambda s, b, h, q, k: s + torch.einsum("i,j->", POINTS[q], OTHERS[k]) / 9,
    "angle": lambda s, b, h, q, k: torch.atan2(s, POINTS[q, 0]) + torch.asin(torch.tanh(s)) + torch.acos(torch.sin(s)),
    "erf and expm1": lambda s, b, h, q, k: torch.erf(s) + torch.expm1(-s.abs()) + torch.special.ndtr(s),
    "lerp and fmod": lambda s, b, h, q, k: torch.lerp(s, torch.fmod(s, 0.7), 0.25) + s % 0.3 + (k % 3) / 4,
    "hyperbolic": lambda s, b, h, q, k: torch.asinh(s) + torch.atanh(torch.tanh(s / 2)) + torch.cosh(s / 3).log(),
    "either power": lambda s, b, h, q, k: torch.pow(s.abs() + 0.5, POINTS[k, 1]),
    "steps": lambda s, b, h, q, k: s + torch.bucketize((q - k).abs(), FREQUENCIES.new_tensor([1.0, 2.0, 4.0, 8.0])) / 4,
    "spread of a row": lambda s, b, h, q, k: s * POINTS[k].std() + POINTS[q].amax() - OTHERS[k].mean(),
    "cosine": lambda s, b, h, q, k: s + F.cosine_similarity(POINTS[q], OTHERS[k], dim=-1),
}  # fmt: skip
MASKS: dict[str, Function] = {
    "dilated": lambda b, h, q, k: ((q - k) % 3 == 0) & (q - k < 9),
    "blocks by shifts": lambda b, h, q, k: (q >> 2) >= (k >> 2),
    "shifts that vary": lambda b, h, q, k: ((0b1011 >> ((q - k) & 3)) & 1).bool() | (q == k),
    "bits counted": lambda b, h, q, k: (((q ^ k) & 1) + ((q ^ k) >> 1 & 1) + ((q ^ k) >> 2 & 1)) <= 2,
    "members": lambda b, h, q, k: (MEMBERS[q] & MEMBERS[k]) != 0,
    "neighbourhood": natten,
    "two dimensions": tiles_2d,
    "global tokens": lambda b, h, q, k: (k == GLOBAL).any() | torch.isin(q, GLOBAL) | ((q - k).abs() <= 1),
    "near points": lambda b, h, q, k: ((POINTS[q] - POINTS[k]).square().sum(-1) < 4.0) & (POINTS[k] > -2).all(),
    "documents": lambda b, h, q, k: torch.logical_and(GROUPS[q] == GROUPS[k], ~torch.isnan(POINTS[k, 0])),
}


def call(dtype: torch.dtype = torch.float64) -> Call:
    lengths = ((HEADS, Q_LEN, DIM), (HEADS, K_LEN, DIM), (HEADS, K_LEN, DIM))
    return Call(*(normal(BATCH, *shape, seed=i).to(dtype) for i, shape in enumerate(lengths)))


@pytest.mark.sampled
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch.vmap
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", [*SCORES, *MASKS])
def test_what_people_write_is_what_it_means(name: str, engine: str, dtype: torch.dtype) -> None:
    functions = {"score_mod": SCORES.get(name), "mask_mod": MASKS.get(name)}
    exact = dense(call(dtype), **functions)
    with running(engine):
        found = call(dtype).by(pellucid.attention, **functions)
    assert_close(found, exact.output.to(dtype), 8 * tolerance(dtype, exact))


@pytest.mark.sampled
@pytest.mark.parametrize("engine", DIFFERENTIABLE)
@pytest.mark.parametrize("name", SCORES)
def test_its_gradients_are_the_definitions(name: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for run in (_defined, _ours):
        made = [
            t.clone().requires_grad_() for t in (POINTS, OTHERS, TABLE, LONG, *call().__dict__.values()) if _is_float(t)
        ]
        for place, leaf in zip(("POINTS", "OTHERS", "TABLE", "LONG"), made, strict=False):
            monkeypatch.setitem(SCORES[name].__globals__, place, leaf)
        with running(engine):
            output = run(Call(*made[4:]), SCORES[name])
        found.append(torch.autograd.grad(output, made, normal(*output.shape, seed=9), materialize_grads=True))
    for expected, gradient in zip(*found, strict=True):
        assert_close(gradient, expected, 1e-10 * (1 + largest(expected)))


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _defined(call: Call, score_mod: Function) -> Tensor:
    return dense(call, score_mod=score_mod).output


def _ours(call: Call, score_mod: Function) -> Tensor:
    return call.by(pellucid.attention, score_mod=score_mod)


@pytest.mark.parametrize("name", [*SCORES, *MASKS])
def test_it_passes_through_text_and_files(name: str) -> None:
    names = ("score", "b", "h", "q", "k")[name in MASKS :]
    expression = trace((SCORES | MASKS)[name], "score_mod", names)
    text, tensors = write(expression)
    captured = Captured()
    nodes = to_json(expression, captured)
    for again in (*read(text, tensors), from_json(nodes, captured.tensors, expression.kind)):
        assert repr(again) == repr(expression)


def test_files_know_every_operation_of_the_language() -> None:
    for op in TORCH:
        kinds = [kinds for count in (1, 2, 3) for kinds in product(RANK, repeat=count) if results_of(op, kinds)]
        assert kinds, op


@pytest.mark.sampled
@pytest.mark.parametrize(
    "name", ["dot", "rotary", "two dimensions", "global tokens", "activations", "shifts that vary"]
)
def test_torch_compile_holds_it_in_one_graph(name: str) -> None:
    functions = {"score_mod": SCORES.get(name), "mask_mod": MASKS.get(name)}
    run = torch.compile(lambda q, k, v: pellucid.attention(q, k, v, **functions), backend="eager", fullgraph=True)
    query, key, value = call().query, call().key, call().value
    expected = pellucid.attention(query, key, value, **functions)
    torch.testing.assert_close(run(query, key, value), expected, rtol=0, atol=0)

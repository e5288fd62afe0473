"""Rows of captured tensors mean what they do in torch, at every place: mapped by torch.vmap, as FlexAttention does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pellucid.language import derivatives, evaluate, trace, walk
from tests.cases import mapped, normal
from tests.language.programs import BATCH, HEADS, K_LEN, NAMES, Q_LEN, function, places

POINTS = {
    "U": normal(K_LEN, 3, seed=5),
    "W": normal(3, K_LEN, seed=6).mT,
    "TILES": normal(HEADS, Q_LEN, 2, 3, seed=7),
    "NEAR": torch.tensor([[2, 0], [1, 3], [4, 4], [0, 1], [3, 2], [1, 1], [2, 2], [0, 0], [3, 3], [1, 4], [2, 1]]),
    "SINKS": torch.tensor([0, 3, 8]),
    "EDGES": torch.tensor([1.0, 2.5, 4.0, 7.0], dtype=torch.float64),
    "SIGNS": torch.tensor([[True, False, True], [False, False, False], [True, True, True]]),
    "LINE": torch.tensor([0.25, -1.5, 3.0], dtype=torch.float64),
    "MANY": normal(K_LEN, 64, seed=8),
}
# Torch's names of functions of rows, and expressions of them.
FORMS: dict[str, tuple[str, ...]] = {
    "sum": ("(U[q] * W[k]).sum(-1)", "torch.sum(TILES[h, q], dim=(0, 1))", "(U[q] - U[k]).pow(2).sum(-1).sqrt()",
            "TILES[h, q].sum(0)[2]", "TILES[h][q].sum(1, keepdim=True)[1, 0]", "score.sum()", "(U[q] > U[k]).sum()",
            "NEAR[q].sum()", "TILES[h, q].sum((0,))[0]"),
    "mean": ("U[q].mean()", "torch.mean(TILES[h, q], -1)[1]"),
    "prod": ("U[k].prod()", "NEAR[k].prod(-1)", "(U[q] > -2).prod()"),
    "amax": ("torch.amax(U[q] * score, -1)", "TILES[h, q].amax((0, 1))"),
    "amin": ("U[q].amin()", "torch.amin(TILES[h, q], 0)[1]"),
    "max": ("U[q].max()", "torch.max(U[q], U[k])[2]", "torch.max(score, U[k]).sum()"),
    "min": ("(U[q] + score).min()", "torch.min(U[q], W[k]).sum()"),
    "any": ("(k == SINKS).any()", "SIGNS[h].any()", "torch.any(SIGNS[h] & (U[k] > 0))", "U[k].any()"),
    "all": ("(NEAR[q] == NEAR[k]).all()", "torch.all(SIGNS[h], 0)"),
    "count_nonzero": ("torch.count_nonzero(NEAR[q])", "(U[q] > 0).count_nonzero()"),
    "logsumexp": ("torch.logsumexp(U[q] * score, -1)", "TILES[h, q].logsumexp((0, 1))"),
    "special_logsumexp": ("torch.special.logsumexp(U[q], 0)",),
    "var": ("U[q].var()", "torch.var(TILES[h, q], 1, correction=0)[0]", "U[k].var(unbiased=False)"),
    "std": ("U[q].std()", "torch.std(U[q], -1)"),
    "norm": ("torch.norm(U[q] - W[k])", "(U[q] - U[k]).norm(dim=-1)", "U[q].norm(1)", "torch.norm(U[q], p=inf)"),
    "linalg_norm": ("torch.linalg.norm(U[q] - U[k])", "torch.linalg.norm(TILES[h, q])", "torch.linalg.norm(U[q], 3)"),
    "linalg_vector_norm": ("torch.linalg.vector_norm(U[q], 0)", "torch.linalg.vector_norm(TILES[h, q], -inf)"),
    "dist": ("torch.dist(U[q], U[k])", "torch.dist(U[q], W[k], 1)"),
    "normalize": ("torch.nn.functional.normalize(U[q], dim=0)[1]",),
    "cosine_similarity": ("torch.nn.functional.cosine_similarity(U[q], W[k], dim=-1)",),
    "pairwise_distance": ("torch.nn.functional.pairwise_distance(U[q], W[k])",),
    "dot": ("torch.dot(U[q], W[k])", "U[q].dot(U[k])", "MANY[q].dot(MANY[k])"),
    "vdot": ("torch.vdot(U[q], W[k])",),
    "inner": ("torch.inner(U[q], W[k])",),
    "linalg_vecdot": ("torch.linalg.vecdot(U[q], W[k])",),
    "matmul": ("torch.matmul(U[q], W[k])", "U[q].matmul(TILES[h, q].T)[1]", "torch.matmul(TILES[h, q], U[k])[0]"),
    "linalg_matmul": ("torch.linalg.matmul(U[q], W[k])",),
    "mv": ("torch.mv(TILES[h, q], U[k])[1]", "TILES[h, q].mv(LINE)[0]"),
    "mm": ("torch.mm(TILES[h, q], TILES[0, q].T)[1, 0]",),
    "outer": ("torch.outer(U[q], W[k])[2, 1]",),
    "einsum": ("torch.einsum('i,i->', U[q], W[k])", "torch.einsum('ij,j->i', TILES[h, q], U[k])[1]",
               "torch.einsum('ij, kj', TILES[h, q], TILES[0, q])[0, 1]", "torch.einsum('d,d', U[q], LINE)"),
    "__matmul__": ("U[q] @ W[k]", "TILES[h, q] @ W[k] @ torch.tensor([1.0, 0.5])", "U[q] @ LINE"),
    "__rmatmul__": ("LINE @ U[q]", "TILES[0, 0] @ U[q] @ TILES[1, 1] @ LINE"),
    "isin": ("torch.isin(k, SINKS)", "torch.isin(q + k, SINKS, invert=True)", "torch.isin(NEAR[q], SINKS).all()"),
    "bucketize": ("torch.bucketize(score, EDGES)", "torch.bucketize(k, EDGES, right=True)",
                  "torch.bucketize(score / (q - q), EDGES)"),
    "searchsorted": ("torch.searchsorted(EDGES, score)", "torch.searchsorted(EDGES, k.double(), side='right')"),
    "take": ("torch.take(U, q)", "U.take(q * 3 + 1)"),
    "gather": ("torch.gather(LINE, 0, q % 3)", "EDGES.gather(0, k % 4)"),
    "index_select": ("torch.index_select(U, 0, q)[0, 1]", "U.index_select(1, q % 3)[4, 0]"),
    "embedding": ("torch.nn.functional.embedding(q, U)[2]",),
    "stack": ("torch.stack([score, U[q, 0]]).sum()", "torch.stack((U[q], U[k]), dim=1)[2, 1]",
              "torch.stack([q, k]).max()", "torch.stack([score, q]).norm()"),
    **{name: (f"torch.{name}([U[q], W[k]]).amax()",) for name in ("cat", "concat", "concatenate", "hstack")},
    "reshape": ("TILES[h, q].reshape(3, 2)[2, 0]", "TILES[h, q].reshape(-1)[4]",
                "TILES[h, q].reshape((2, -1, 1))[1, 2, 0]"),
    "view": ("TILES[h, q].view(6)[5]",),
    "flatten": ("TILES[h, q].flatten()[3]",),
    "unsqueeze": ("(U[q].unsqueeze(0) * U[k].unsqueeze(-1)).sum()",),
    "squeeze": ("U[q].unsqueeze(0).squeeze()[1]", "U[q].unsqueeze(0).squeeze(0)[2]", "U[q].squeeze(-1)[0]"),
    "permute": ("TILES[h, q].permute(1, 0)[2, 1]", "torch.permute(TILES[h, q], (1, 0))[0, 1]"),
    "transpose": ("TILES[h, q].transpose(0, 1)[2, 1]", "torch.transpose(TILES[h, q], -1, 0)[0, 1]"),
    "t": ("TILES[h, q].t()[1, 0]",),
    "unbind": ("U[q].unbind()[1]", "torch.unbind(TILES[h, q], 1)[2][1]"),
}  # fmt: skip
INDEXED = (
    "U[q, 0]", "U[q][1]", "U[q][-1]", "U[q, :][2]", "U[q, 1:].sum()", "U[..., q, 0]", "U[q, ...].sum()",
    "W.T[:, k][1]",
    "TILES[h, :, 1][q][2]", "TILES[h][q, 0, 1]", "TILES[h, q, :, k % 3].sum()",
    "TILES[h, q, None][0, 1, 2]", "U[None, q][0, 2]", "U[q][None, :][0, 1]", "U[q][::2].sum()",
    "TILES[h, q][..., 1].sum()",
    "TILES[h, q][1][2]", "U[NEAR[q], 1].sum()", "U[NEAR[k][1]][2]",
    "U[[0, 4], q % 3].sum()", "BIAS[h][q, k]", "BIAS[:, q, k].sum()", "(lambda a, b, c: a * b - c)(*U[q])",
    "len(U[q]) * score", "U[q].shape[0] * score", "U[q].size(0) + U[q].dim() + U[q].numel() + U[q].ndim + score",
    "sum(U[q])", "sum(a * b for a, b in zip(U[q], W[k]))", "(LINE * U[q]).sum()", "(score + LINE).sum()",
    "torch.where(SIGNS[h], U[q], score).sum()", "torch.exp(-(U[q] - U[k]).square().sum() / 2)", "(-U[q]).abs().sum()",
    "U[q].clamp(min=LINE).sum()", "U[q].to(torch.int64).sum()", "U[q].long().float().double().sum()",
    "(1.0 - U[q]).sum()",
    "torch.zeros_like(U[q]).sum() + score", "TILES[h, q].T[2, 1]", "TILES[h, q].mT[2, 1]", "(SINKS - k).abs().amin()",
)  # fmt: skip


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def exact(source: str, captured: dict[str, Tensor]) -> Tensor:
    """What torch computes, place by place."""
    one = function(source, captured)
    return mapped(one, places()["score"].expand(BATCH, HEADS, Q_LEN, K_LEN))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch.vmap
@pytest.mark.parametrize("source", [*(s for forms in FORMS.values() for s in forms), *INDEXED])
def test_every_form_is_what_torch_computes(source: str) -> None:
    expression = trace(function(source, POINTS), "score_mod", NAMES)
    (found,) = evaluate(expression, inputs=places(), dtype=torch.float64)
    expected = exact(source, POINTS)
    kinds = {torch.bool: "bool", torch.int64: "int", torch.float64: "float"}
    assert expression.kind == kinds[expected.dtype]
    torch.testing.assert_close(
        found.expand(expected.shape).double(), expected.double(), rtol=1e-12, atol=1e-12, equal_nan=True
    )


SLOPED = (
    "(U[q] * W[k]).sum(-1)", "(U[q] - U[k]).pow(2).sum(-1)", "torch.linalg.norm(U[q] - U[k])", "U[q].std() * score",
    "torch.nn.functional.cosine_similarity(U[q], W[k], dim=0)", "U[q].amax() + U[k].prod()",
    "TILES[h, q] @ U[k] @ LINE[1:]",
    "torch.logsumexp(U[q] * score, 0)", "torch.linalg.norm(U[q], 3)", "sum(U[q])", "torch.dist(U[q], W[k], 1)",
    "torch.einsum('ij,j->', TILES[h, q], U[k])",
)  # fmt: skip


@pytest.mark.parametrize("source", SLOPED)
def test_the_gradients_of_what_rows_are_read_from_are_torchs(source: str) -> None:
    made = []
    for ours in (False, True):
        captured = {n: t.clone().requires_grad_() if t.is_floating_point() else t for n, t in POINTS.items()}
        leaves = [captured[name] for name in ("U", "W", "TILES", "LINE")]
        if ours:
            expression = trace(function(source, captured), "score_mod", NAMES)
            loads = [node for node in walk(expression) if node.op == "load"]
            slopes = evaluate(*derivatives(expression, loads), inputs=places(), dtype=torch.float64)
            shape = (BATCH, HEADS, Q_LEN, K_LEN)
            for load, slope in zip(loads, slopes, strict=True):
                index = evaluate(*load.args, inputs=places(), dtype=torch.float64)
                grown = torch.zeros_like(load.value).index_put_(
                    [i.expand(shape) for i in index], slope.detach().expand(shape), accumulate=True
                )
                load.value.backward(grown)
        else:
            exact(source, captured).sum().backward()
        made.append([torch.zeros_like(t) if t.grad is None else t.grad for t in leaves])
    for expected, found in zip(*made, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

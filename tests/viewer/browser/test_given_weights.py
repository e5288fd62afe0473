"""Weights that a user gave are answered as they were given, of every sequence, at every level."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from pellucid.record.given import record_of_weights
from pellucid.viewer.browser.answers import Answers

SHAPES = ((2, 3, 7, 11), (2, 2, 600, 500), (1, 1, 2500, 2300))


@pytest.fixture(params=SHAPES, ids=str)
def weights(request: pytest.FixtureRequest) -> torch.Tensor:
    return torch.rand(request.param) ** 4


def asked(answers: Answers, path: str, **query: object) -> tuple[np.ndarray, str]:
    """The weights of an answer, once it is built."""
    until = time.monotonic() + 60
    text = {"record": "r0", "layer": "0"} | {name: str(value) for name, value in query.items()}
    while (answer := answers.get(path, text)).status == 202 and time.monotonic() < until:
        time.sleep(0.02)
    assert answer.status == 200, answer.body
    shape = [int(size) for size in answer.headers["X-Shape"].split(",")]
    dtype = {"f16": "<f2", "f32": "<f4"}[answer.headers["X-Dtype"]]
    found = np.exp(np.frombuffer(answer.body, dtype).astype(np.float64).reshape(shape))
    return found, answer.headers.get("X-Exact", "")


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize(("zq", "zk"), [(0, 0), (2, 1), (4, 4)])
def test_tiles(weights: torch.Tensor, zq: int, zk: int, pool: str) -> None:
    answers = Answers({"r0": record_of_weights(weights)})
    sequence, head = weights.shape[0] - 1, weights.shape[1] - 1
    query = {"heads": head, "sequence": sequence, "pool": pool, "zq": zq, "zk": zk, "i": 0, "j": 0, "dtype": "f32"}
    found, exact = asked(answers, "api/tile", **query)
    whole = weights[sequence, head].double().numpy()
    for i, j in {(0, 0), (found.shape[0] - 1, found.shape[1] - 1), (found.shape[0] // 2, found.shape[1] // 3)}:
        bin_ = whole[i << zq : (i + 1) << zq, j << zk : (j + 1) << zk]
        assert found[i, j] == pytest.approx(bin_.mean() if pool == "mean" else bin_.max(), rel=1e-5)
    assert exact == ("exact" if zq == zk == 0 else "pooled")
    answers.close()


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("path", ["api/thumbs", "api/overview"])
def test_whole_maps(weights: torch.Tensor, path: str, pool: str) -> None:
    answers = Answers({"r0": record_of_weights(weights)})
    sequence = weights.shape[0] - 1
    found, _ = asked(answers, path, sequence=sequence, pool=pool, heads=0)
    found = found[0] if path == "api/thumbs" else found
    whole = weights[sequence, 0].double().numpy()
    rows, columns = (-(-length // bins) for length, bins in zip(whole.shape, found.shape, strict=True))
    first = whole[:rows, :columns]
    assert found[0, 0] == pytest.approx(first.mean() if pool == "mean" else first.max(), rel=2e-2)
    answers.close()

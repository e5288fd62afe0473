"""Records to ask of, the definition of what is answered, and how an answer reads."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import torch

from pellucid.readouts import Pooled, PooledMax, TopK
from pellucid.record.given import record_of_weights
from pellucid.record.layer import Layer
from pellucid.record.part import Part
from tests.watch.observed import observed_layer

_DTYPES = {"f16": "<f2", "f32": "<f4", "i32": "<i4"}


def value_of(answer):
    """The numbers of an answer, float64; weights where their logarithms were sent."""
    assert answer.status == 200, answer.body
    shape = [int(size) for size in answer.headers["X-Shape"].split(",")]
    numbers = np.frombuffer(answer.body, _DTYPES[answer.headers["X-Dtype"]]).reshape(shape)
    return torch.from_numpy(numbers.astype(np.float64)).exp()


def json_of(answer):
    return json.loads(answer.body)


def soon(answers, path, query, tries=2000):
    """The answer once it is there, and how often it was not."""
    for tried in range(tries):
        answer = answers.get(path, query)
        if answer.status != 202:
            return answer, tried
        assert 0 <= json_of(answer)["building"] <= 1
        time.sleep(0.005)
    raise AssertionError("it is never there")


def dense(layer: Layer, sequence: int, heads: list[int], over: str):
    """All weights of some heads as one, float64 [queries, keys]; rows of padding NaN."""
    weights = layer.weights(heads=heads)[sequence].double()
    whole = weights.mean(0) if over == "mean" else weights.amax(0)
    padding = layer.padding.queries
    return whole if padding is None else whole.masked_fill(padding[sequence][:, None], torch.nan)


def pooled(whole, q_bin: int, k_bin: int, pool: str):
    """The mean over the pairs of each bin, or the largest, bin by bin; of rows that are not NaN."""
    rows, columns = whole.split(q_bin), -(-whole.shape[1] // k_bin)
    found = torch.full((len(rows), columns), torch.nan, dtype=torch.float64)
    for i, row in enumerate(rows):
        counted = row[~row.isnan().any(1)]
        for j, part in enumerate(counted.split(k_bin, 1)):
            if part.numel():
                found[i, j] = part.mean() if pool == "mean" else part.amax()
    return found


def assert_close(found, expected, atol=1e-7, rtol=2e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol, equal_nan=True)


def in_parts(layer: Layer, window: int | None = None) -> Layer:
    """The layer as a generation leaves it: a prompt, then a query a call; of a sliding cache the last keys."""
    (whole,) = layer.parts
    starts = [0, *range(layer.q_len // 2, layer.q_len)]
    parts = []
    for start, stop in zip(starts, [*starts[1:], layer.q_len], strict=True):
        first = 0 if window is None or start == 0 else max(0, start + 1 - window)
        parts.append(
            Part(
                start, first, whole.query[..., start:stop, :], whole.key[..., first:stop, :], whole.scale, whole.score,
                whole.mask, whole.sinks,
            )
        )  # fmt: skip
    return replace(layer, parts=parts)


def by_hand() -> Layer:
    """A layer of which the scores are known and no query and key."""
    from pellucid import watch
    from tests.watch.test_by_hand import LENGTH, WIDTH, Written, causal

    model = Written(causal).eval()
    with watch(model, keep=True) as record, torch.no_grad():
        model(torch.randn(2, LENGTH, WIDTH))
    return record[0]


LAYERS = {
    "causal": lambda: observed_layer(q_len=37),
    "padded": lambda: observed_layer(q_len=41, left_padding=[0, 19]),
    "all of a sequence's first bins padded": lambda: observed_layer(
        q_len=41, left_padding=[3, 40], heads=1, kv_heads=1
    ),
    "grouped heads": lambda: observed_layer(heads=4, kv_heads=2, q_len=31),
    "window": lambda: observed_layer(q_len=43, window=5),
    "sink": lambda: observed_layer(q_len=29, sinks=torch.tensor([0.5, -1.0, 2.0])),
    "cross": lambda: observed_layer("cross", "cross", q_len=7, k_len=53),
    "cross, padded": lambda: observed_layer("cross", "cross", q_len=47, k_len=11, left_padding=[0, 3]),
    "self": lambda: observed_layer("encoder", "self", q_len=33, batch=1),
    "half": lambda: observed_layer(q_len=37, dtype=torch.bfloat16),
    "double": lambda: observed_layer(q_len=23, dtype=torch.float64),
    "generation": lambda: in_parts(observed_layer(q_len=37)),
    "padded generation": lambda: in_parts(observed_layer(q_len=37, left_padding=[0, 9])),
    "sliding cache": lambda: in_parts(observed_layer(q_len=41, window=6), 6),
    "huge scores": lambda: observed_layer(q_len=31, sharp=1e4),
    "by hand": by_hand,
    "given": lambda: record_of_weights(torch.rand(2, 3, 31, 17))[0],
    "read": lambda: observed_layer(q_len=37, readouts=[Pooled(12, 12), PooledMax(12, 12), TopK(5)]),
}

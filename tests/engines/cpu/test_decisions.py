"""Every place where a call on the compiled engine is decided by the numbers of a tensor.

What is kept for the next call, a plan or a kernel, may depend on them only if they are a part of what it is found by.
Here the methods that give a tensor's numbers to Python note who called them, and the list must be the one below.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines, masks, readouts, scores

PACKAGE = Path(pellucid.__file__).parent
READING = (
    "item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__",
    "nonzero", "equal", "allclose", "is_nonzero", "unique", "masked_select",
)  # fmt: skip

# Who reads numbers, and what becomes of them.
DECISIONS = {
    "engines/cpu/call/specify.py magnitude": "how large captured ints are: in `plan._signature`, at each call",
    "engines/rounded.py places": "which rows of this call's own lse or maximum are computed again; nothing is kept",
    "engines/cpu/call/weights.py _is_range": "whether chosen keys are neighbours: in the kernel's program",
    "engines/cpu/call/weights.py weights": "whether a row of this call's own lse is NaN; nothing is kept",
    "engines/cpu/stages/pooled.py result": "which bin a range of queries begins in, by the readout and lengths alone",
    "arguments.py _number": "scale and dropout_p given as tensors: numbers of the problem, in `plan._signature`",
}

IDS = torch.arange(1543) // 7
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": torch.tensor(0.3)},
    "documents": {"mask_mod": masks.documents(IDS)},
    "offset": {"mask_mod": masks.causal(torch.tensor(3))},
    "lengths": {"mask_mod": masks.key_lengths(torch.tensor([2, 51]))},
    "prefixes": {"mask_mod": masks.prefix(torch.tensor([2, 51]))},
    "table": {"score_mod": scores.relative_bias(torch.randn(32, 2), offset=1)},
    "slopes": {"score_mod": scores.alibi(torch.tensor([0.5, 0.25]))},
    "ints": {"score_mod": lambda s, b, h, q, k: s + IDS[IDS[k]] * 0.1},
    "sinks": {"sinks": torch.tensor([0.5, 1e30])},
    "huge": {"score_mod": lambda s, b, h, q, k: s * 1e9},
}


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Who in the package has asked for a tensor's numbers."""
    found: set[str] = set()

    def noting(own: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            frame: Any = sys._getframe(1)
            while frame is not None and not Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
                frame = frame.f_back
            if frame is not None:
                found.add(f"{Path(frame.f_code.co_filename).relative_to(PACKAGE)} {frame.f_code.co_name}")
            return own(*args, **kwargs)

        return method

    for owner in (Tensor, torch):
        for name in READING:
            if hasattr(owner, name):
                monkeypatch.setattr(owner, name, noting(getattr(owner, name)))
    return found


@pytest.mark.sampled
@pytest.mark.parametrize(("q_len", "k_len"), [(61, 67), (263, 269), (1, 1543)])  # one tile, forward, decode
def test_nothing_else_is_decided_by_numbers(readers: set[str], q_len: int, k_len: int) -> None:
    query, key, value = torch.randn(2, 2, q_len, 16), torch.randn(2, 2, k_len, 16), torch.randn(2, 2, k_len, 16)
    every = [
        pellucid.LogSumExp(), pellucid.Entropy(), pellucid.MaxScore(), pellucid.TopK(3), pellucid.Received(),
        pellucid.Pooled(3, 4), readouts.PooledMax(2, 5), pellucid.Expect(lambda b, h, q, k: IDS[k], "document"),
    ]  # fmt: skip
    mask = torch.rand(q_len, k_len) < 0.5
    for call in (*CALLS.values(), {"attn_mask": mask}, {"attn_mask": mask.float()}):
        for _ in range(2):  # also the fast way of a call like an earlier one
            with engines.using("cpu"):
                pellucid.attention(query, key, value, **call)
                _, seen = pellucid.observe(query, key, value, readouts=every, **call)
                seen.weights(queries=slice(0, 3), keys=torch.tensor([5, 0, 3]))
    assert readers == set(DECISIONS)


def test_a_reader_is_noticed(readers: set[str]) -> None:
    seen = pellucid.observe(torch.ones(5, 4), torch.ones(5, 4), torch.ones(5, 4), scale=torch.tensor(0.5))[1]
    assert "arguments.py _number" in readers
    assert seen.entropy.shape == (5,)

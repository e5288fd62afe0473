"""Where the time of a generation goes: linear layers, attention, the cache, and what is left, on SDPA and accelerated.

    python -m benchmarks.parts                       64 tokens after 4,096, 8 layers, 32/8 heads of 128, bfloat16
    python -m benchmarks.parts --intermediate 4096

The model of `python -m benchmarks.watch accelerate`, in one process, the two in turns. Beside it how fast memory is
read, and how fast one row goes through linear layers, whose weights then are read once.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

import pellucid
from benchmarks.limits import bandwidth
from benchmarks.watch import wide_llama

MODES = ("sdpa", "accelerated")
PARTS = ("linear", "attention", "cache", "other")
LAYER = (4096, 11008)  # inputs and outputs of the linear layer that is timed alone
COPIES = 12  # of its weights, more than any cache holds


class Clock:
    """Seconds of each part, of the prompt and of the steps after it."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.phase = "prompt"

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.seconds[self.phase, part] += time.perf_counter() - start

        return run

    def forward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The model's forward, of which what no part takes is `other`."""

        @functools.wraps(function)  # transformers reads its arguments
        def run(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **options)
            self.seconds[self.phase, "all"] += time.perf_counter() - start
            self.phase = "steps"
            return result

        return run

    def of(self, phase: str, part: str) -> float:
        if part != "other":
            return self.seconds[phase, part]
        return self.seconds[phase, "all"] - sum(self.seconds[phase, known] for known in PARTS[:-1])


@contextmanager
def clocked(model: Any, clock: Clock) -> Iterator[None]:
    """Let a clock see the parts of a model's forward."""
    from transformers.cache_utils import DynamicLayer
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from pellucid import register
    from pellucid.accelerating import row_linear
    from pellucid.accelerating.growing_cache import _growing

    register()
    registry: dict[str, Any] = ALL_ATTENTION_FUNCTIONS._global_mapping
    attending = {name: clock.timed("attention", registry[name]) for name in ("sdpa", "pellucid")}
    caches: tuple[Any, ...] = DynamicLayer, _growing()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(registry, attending))
        for kind in caches:
            # The growing layer calls its parent's update only where gradients are wanted: nothing counts twice.
            stack.enter_context(mock.patch.object(kind, "update", clock.timed("cache", kind.update)))
        linear = clock.timed("linear", torch.nn.Linear.forward)
        stack.enter_context(mock.patch.object(torch.nn.Linear, "forward", lambda self, x: linear(self, x)))
        row = clock.timed("linear", row_linear.row_through)
        stack.enter_context(mock.patch.object(row_linear, "row_through", row))
        stack.enter_context(mock.patch.object(model, "forward", clock.forward(model.forward)))
        yield


def generation(model: Any, ids: torch.Tensor, new: int, mode: str) -> Clock:
    """The clock of one greedy generation."""
    clock = Clock()
    if mode == "accelerated":
        pellucid.accelerate(model)
    with clocked(model, clock):
        model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
    pellucid.restore(model)
    return clock


def row_through(weights: list[torch.Tensor], rows: int = 1, rounds: int = 5) -> float:
    """Bytes a second of one row, or some, through linear layers: their weights over the least time of a round."""
    inputs = {size: torch.randn(rows, size).to(weights[0].dtype) for size in {w.shape[1] for w in weights}}
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)
        seconds.append(time.perf_counter() - start)
    return sum(w.numel() * w.element_size() for w in weights) / min(seconds)


def report(clocks: dict[str, list[Clock]], steps: int) -> None:
    """Least seconds of each part over the rounds."""

    def least(mode: str, phase: str, part: str) -> float:
        return min(clock.of(phase, part) for clock in clocks[mode])

    print(f"{'':12} {'':>9} {'all':>9} " + " ".join(f"{part:>9}" for part in PARTS))
    for phase, unit, scale in (("prompt", "s", 1.0), ("steps", "ms each", 1e3 / steps)):
        for mode in MODES:
            numbers = [least(mode, phase, part) * scale for part in ("all", *PARTS)]
            print(f"{mode:12} {phase:>9} " + " ".join(f"{n:9.2f}" for n in numbers), unit)
    whole = {mode: sum(least(mode, phase, "all") for phase in ("prompt", "steps")) for mode in MODES}
    without = whole["sdpa"] - sum(least("sdpa", phase, "attention") for phase in ("prompt", "steps"))
    nothing = without - sum(least("sdpa", phase, "cache") for phase in ("prompt", "steps"))
    print(f"accelerated is {whole['sdpa'] / whole['accelerated']:.2f} times as fast")
    print(f"with attention at no cost it would be {whole['sdpa'] / without:.2f} times")
    print(f"with attention and the cache at no cost it would be {whole['sdpa'] / nothing:.2f} times")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parts", description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096, help="of the prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens to generate")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=11008)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    threads = torch.get_num_threads()
    (read,) = bandwidth.read([2**30], threads).values()
    print(f"memory is read at {read / 1e9:.1f} GB/s on {threads} threads")
    model = wide_llama(dtype, options.hidden, options.intermediate, options.tokens + options.new)
    ids = torch.randint(1, 32000, (1, options.tokens), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = [torch.randn(LAYER[1], LAYER[0]).to(dtype) for _ in range(COPIES)]
        print(f"one row through {LAYER[0]} x {LAYER[1]}: weights at {row_through(alone) / 1e9:.1f} GB/s")
        del alone
        weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
        size = sum(w.numel() * w.element_size() for w in weights)
        speed = row_through(weights)
        print(f"one row through all {len(weights)} of the model, {size / 1e9:.2f} GB: {speed / 1e9:.1f} GB/s, ", end="")
        print(f"{size / speed * 1e3:.0f} ms; reading alone would take {size / read * 1e3:.0f} ms")
        clocks: dict[str, list[Clock]] = {mode: [] for mode in MODES}
        for mode in MODES:
            generation(model, ids[:, :300], 2, mode)  # kernels are compiled at first use
        for _ in range(options.rounds):
            for mode in MODES:
                clocks[mode].append(generation(model, ids, options.new, mode))
    report(clocks, options.new - 1)


if __name__ == "__main__":
    main()

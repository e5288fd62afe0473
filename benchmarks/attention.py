"""Attention side by side: pellucid against torch's SDPA and eager attention, on the same tensors, taking turns.

    python benchmarks/attention.py [--threads 2] [--rounds 20] [--json results.json] [--only float32,decode]

Each contender's result is checked against float64 before it is timed; a wrong one gets no number. Times are medians,
and the ratio is the median of the rounds' ratios, so that a machine that drifts moves both sides. What the numbers do
not show: the first call of each kind, which compiles a kernel (0.1 to 0.5 s, then kept on disk).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

import pellucid
from pellucid import masks
from pellucid.readouts import Entropy, Pooled, Received, TopK, mass_on_first, mass_on_previous, mean_distance

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Work:
    """One row: the peer's call and ours, on the same tensors; `exact` is in float64, None where it is not checked."""

    name: str
    peer: str
    theirs: Run
    ours: Run
    exact: Run | None
    flops: float  # multiply-adds counted twice; half of the matrix under a causal mask


@dataclass(frozen=True)
class Timed:
    """What a row came to."""

    name: str
    peer: str
    ours_ms: float
    theirs_ms: float
    ratio: float
    gflops: float
    error: float


SHAPES = [
    (1, 12, 512, 64),
    (1, 12, 2048, 64),
    (1, 8, 4096, 128),
    (1, 32, 1024, 128),
    (8, 12, 128, 64),
    (32, 12, 32, 64),
]


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def plain(dtype: torch.dtype) -> Iterator[Work]:
    for batch, heads, length, dim in SHAPES:
        query, key, value = (normal(batch, heads, length, dim, dtype=dtype) for _ in range(3))
        for causal in (False, True):
            yield Work(
                f"{str(dtype)[6:]} {batch}×{heads}×{length}×{dim} {'causal' if causal else 'full'}",
                "SDPA",
                lambda q=query, k=key, v=value, c=causal: sdpa(q, k, v, is_causal=c),
                lambda q=query, k=key, v=value, c=causal: pellucid.attention(q, k, v, is_causal=c),
                lambda q=query, k=key, v=value, c=causal: sdpa(q.double(), k.double(), v.double(), is_causal=c),
                4 * batch * heads * length**2 * dim / (2 if causal else 1),
            )


def decode(dtype: torch.dtype) -> Iterator[Work]:
    for keys in (1024, 8192, 32768):
        query, key, value = (normal(1, h, n, 128, dtype=dtype) for h, n in ((32, 1), (8, keys), (8, keys)))
        yield Work(
            f"decode {str(dtype)[6:]} 32/8 heads, {keys} keys × 128",
            "SDPA",
            lambda q=query, k=key, v=value: sdpa(q, k, v, enable_gqa=True),
            lambda q=query, k=key, v=value: pellucid.attention(q, k, v, enable_gqa=True),
            lambda q=query, k=key, v=value: sdpa(q.double(), k.double(), v.double(), enable_gqa=True),
            4 * 32 * keys * 128,
        )


def sparse() -> Iterator[Work]:
    length = 16_384
    query, key, value = (normal(1, 1, length, 64) for _ in range(3))
    ids = torch.arange(length) // 512
    distance = torch.arange(length)[:, None] - torch.arange(length)
    dense = {"window of 256": (distance >= 0) & (distance < 256), "documents of 512": ids[:, None] == ids}
    own = {"window of 256": masks.sliding_window(255, 0), "documents of 512": masks.documents(ids)}
    for name, mask in dense.items():
        yield Work(
            f"{name}, {length} tokens",
            "SDPA, the same mask",
            lambda m=mask: sdpa(query, key, value, attn_mask=m),
            lambda m=own[name]: pellucid.attention(query, key, value, mask_mod=m),
            None,
            4 * float(mask.sum()) * 64,
        )


def observed() -> Iterator[Work]:
    query, key, value = (normal(1, 12, 2048, 64) for _ in range(3))
    rows = [Entropy(), mean_distance(), mass_on_first(), mass_on_previous(), TopK(8)]
    for name, chosen in {
        "entropy, three Expects, top 8": rows,
        "received": [Received()],
        "pooled 256 × 256": [Pooled(256, 256)],
    }.items():
        yield Work(
            f"1×12×2048×64 with {name}",
            "pellucid without",
            lambda: pellucid.attention(query, key, value),
            lambda r=chosen: pellucid.observe(query, key, value, readouts=r)[0],
            None,
            4 * 12 * 2048**2 * 64,
        )
    query, key, value = (normal(1, 12, 4096, 64) for _ in range(3))
    yield Work(
        "1×12×4096×64 with entropy and received",
        "eager, from the matrix",
        lambda: eager(query, key, value),
        lambda: pellucid.observe(query, key, value, readouts=[Entropy(), Received()])[0],
        None,
        4 * 12 * 4096**2 * 64,
    )


def eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What a user who wants statistics does today."""
    weights = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1)
    torch.special.entr(weights).sum(-1), weights.sum(-2)
    return weights @ value


def small() -> Iterator[Work]:
    x = normal(10, 4)
    yield Work(
        "the notebook's 10 × 4",
        "SDPA",
        lambda: sdpa(x, x, x),
        lambda: pellucid.attention(x, x, x),
        lambda: sdpa(x.double(), x.double(), x.double()),
        4 * 100 * 4,
    )


GROUPS: dict[str, Callable[[], Iterator[Work]]] = {
    "float32": lambda: plain(torch.float32),
    "bfloat16": lambda: plain(torch.bfloat16),
    "float16": lambda: plain(torch.float16),
    "float64": lambda: plain(torch.float64),
    "decode": lambda: (work for dtype in (torch.bfloat16, torch.float32) for work in decode(dtype)),
    "sparse": sparse,
    "observed": observed,
    "small": small,
}


def timed(work: Work, rounds: int) -> Timed:
    """Both sides in turn, after a check of both."""
    error = 0.0
    if work.exact is not None:
        exact = work.exact()
        errors = [float((run().double() - exact).abs().max()) for run in (work.ours, work.theirs)]
        error = errors[0]
        last_place = torch.finfo(work.ours().dtype).eps * float(exact.abs().max())
        if error > 2 * errors[1] + 4 * last_place:
            raise SystemExit(f"{work.name}: an error of {error:.2g} where {work.peer} has {errors[1]:.2g}; not timed")
    ours, theirs = [], []
    work.theirs(), work.ours()
    for number in range(rounds):
        sides = [(work.ours, ours), (work.theirs, theirs)]
        for run, times in sides if number % 2 else sides[::-1]:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    own = statistics.median(ours)
    ratio = statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
    return Timed(work.name, work.peer, own * 1e3, statistics.median(theirs) * 1e3, ratio, work.flops / own / 1e9, error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=f"groups: {', '.join(GROUPS)}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", metavar="FILE", help="also write the results, with machine and versions")
    parser.add_argument("--only", metavar="GROUPS", help="some of the groups, separated by commas")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(GROUPS)
    if unknown := set(chosen) - set(GROUPS):
        parser.error(f"--only: no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    console = Console(stderr=True)
    with torch.no_grad():
        works = (work for group in chosen for work in GROUPS[group]())
        results = [timed(work, options.rounds) for work in track(works, "timing", console=console, transient=True)]
    machine = {"processor": processor(), "threads": options.threads, "torch": torch.__version__}
    machine |= {"pellucid": pellucid.__version__, "python": platform.python_version()}
    Console().print(table(results, machine))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine, "results": [asdict(result) for result in results]}, file, indent=1)


def table(results: list[Timed], machine: dict[str, object]) -> Table:
    made = Table(title=", ".join(f"{name} {value}" for name, value in machine.items()))
    for heading in ("work", "against", "ours (ms)", "theirs (ms)", "ratio", "GFLOP/s", "error"):
        made.add_column(heading, justify="left" if heading in ("work", "against") else "right")
    for r in results:
        numbers = (f"{r.ours_ms:.3f}", f"{r.theirs_ms:.3f}", f"{r.ratio:.2f}", f"{r.gflops:.0f}", f"{r.error:.1e}")
        made.add_row(r.name, r.peer, *numbers)
    return made


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

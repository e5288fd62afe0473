"""What watching a model costs, and what accelerating one brings: whole models of random weights, against SDPA.

    python -m benchmarks.watch watch                       a forward pass over 32,768 tokens: 4 layers, 8 heads, float32
    python -m benchmarks.watch accelerate                  64 tokens after 4,096, 8 layers, 32/8 heads of 128, bfloat16
    python -m benchmarks.watch accelerate --dtype float32  the same tokens must come out

Each contender runs in a process of its own, so that memory is its own too, in turns; the least time of its rounds
counts. `python -m benchmarks.parts` takes the second apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch

import pellucid
from benchmarks.measuring import memory

MODES = {"watch": ("sdpa", "watched"), "accelerate": ("sdpa", "accelerated")}


def long_llama(tokens: int) -> Any:
    """4 layers of 8 heads of 64."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=1376,
        max_position_embeddings=tokens,
    )  # fmt: skip
    return transformers.LlamaModel(config).eval()


def wide_llama(dtype: torch.dtype, hidden: int, intermediate: int, tokens: int) -> Any:
    """8 layers, 32 query and 8 key heads of 128; weights from one block of random numbers, for they are many."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=hidden, num_hidden_layers=8, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, intermediate_size=intermediate, max_position_embeddings=tokens, pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model: Any = transformers.LlamaForCausalLM(config)
    model = model.to(dtype).to_empty(device="cpu")
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    for name, parameter in model.named_parameters():
        numbers = parameter.detach().view(-1)
        if "norm" in name:
            numbers.fill_(1.0)
            continue
        for start in range(0, len(numbers), len(block)):
            part = numbers[start : start + len(block)]
            part.copy_(block[: len(part)]).mul_(hidden**-0.5)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def forward(mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """One forward pass over a long text, on SDPA or watched with the readouts of the summary."""
    model = long_llama(options.tokens)
    ids = torch.randint(0, 1000, (1, options.tokens), generator=torch.Generator().manual_seed(0))

    def run(some: torch.Tensor) -> None:
        if mode == "sdpa":
            model(some, use_cache=False)
            return
        with pellucid.watch(model):
            model(some, use_cache=False)

    with torch.no_grad():
        run(ids[:, :700])  # kernels are compiled at first use
        with memory.peak() as grown:
            start = time.perf_counter()
            run(ids)
            seconds = time.perf_counter() - start
    return {"seconds": seconds, "MB": grown.added / memory.MB}


def generation(mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """Greedy generation after a prompt, on SDPA or accelerated."""
    dtype = getattr(torch, options.dtype)
    model = wide_llama(dtype, options.hidden, options.intermediate, options.tokens + options.new)
    ids = torch.randint(1, 32000, (1, options.tokens), generator=torch.Generator().manual_seed(0))
    if mode == "accelerated":
        pellucid.accelerate(model)

    def run(some: torch.Tensor, new: int) -> torch.Tensor:
        made = model.generate(some, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
        return made[0, some.shape[1] :]

    with torch.no_grad():
        run(ids[:, :300], 2)  # kernels are compiled at first use
        with memory.peak() as grown:
            start = time.perf_counter()
            tokens = run(ids, options.new)
            seconds = time.perf_counter() - start
    return {"seconds": seconds, "MB": grown.added / memory.MB, "tokens": tokens.tolist()}


def compare(options: argparse.Namespace) -> None:
    """Run both modes in turns, each time in a process of its own, and print them side by side."""
    results: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES[options.what]}
    for _ in range(options.rounds):
        for mode, found in results.items():
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.watch", *sys.argv[1:], "--mode", mode]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            shown = {name: value for name, value in found[-1].items() if name != "tokens"}
            print(mode, ", ".join(f"{name} {value:,.2f}" for name, value in shown.items()), flush=True)
    plain, ours = (min(found, key=lambda round_: round_["seconds"]) for found in results.values())
    memories = f"memory x {ours['MB'] / plain['MB']:.2f}"
    if options.what == "watch":
        print(f"time x {ours['seconds'] / plain['seconds']:.2f}, {memories}")
        return
    same = plain["tokens"] == ours["tokens"]
    print(f"{plain['seconds'] / ours['seconds']:.2f} times as fast, ", end="")
    print(f"{memories}, tokens {'the same' if same else 'differ'}")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.watch", description=__doc__)
    made.add_argument("what", choices=list(MODES))
    made.add_argument("--tokens", type=int, default=None, help="of the text, or of the prompt")
    made.add_argument("--new", type=int, default=64, help="tokens to generate")
    made.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    made.add_argument("--hidden", type=int, default=4096)
    made.add_argument("--intermediate", type=int, default=11008)
    made.add_argument("--rounds", type=int, default=2)
    made.add_argument("--mode", help="run one alone, and print its numbers as JSON")
    return made


def main() -> None:
    options = parser().parse_args()
    options.tokens = options.tokens or {"watch": 32768, "accelerate": 4096}[options.what]
    if options.mode is None:
        compare(options)
        return
    run = forward if options.what == "watch" else generation
    print(json.dumps(run(options.mode, options)))


if __name__ == "__main__":
    main()

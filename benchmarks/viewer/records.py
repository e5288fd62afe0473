"""Records to look at: models of random weights over a text of random words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import torch

import pellucid


class Shape(NamedTuple):
    """Of a model, and how long a text it reads."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tokens: int


LONG = Shape(4, 8, 2, 64, 32_768)
WIDE = Shape(32, 32, 8, 16, 2_048)
HUGE = Shape(1, 1, 1, 64, 131_072)


def record(folder: Path, shape: Shape) -> Path:
    """The record of such a model as `pellucid watch` writes it, with query and key; made where it is not there yet."""
    path = folder / f"{shape.layers}x{shape.heads}-{shape.tokens}.attn"
    if path.is_dir() and pellucid.open_record(path).complete:
        return path
    print(f"making {path}", flush=True)
    tokens = _words(shape.tokens)
    known = {token: number for number, token in enumerate(sorted(set(tokens)))}
    ids = torch.tensor([[known[token] for token in tokens]])
    more = [pellucid.TopK(8), pellucid.Pooled(64, 64), pellucid.PooledMax(64, 64)]
    model = _llama(shape)
    with pellucid.watch(model, keep=True, more=more, tokens=[tokens], out=path), torch.no_grad():
        model(ids)
    return path


def _words(count: int) -> list[str]:
    drawn = random.Random(0)
    return [f" {'abcdefghijklmnop'[int(drawn.expovariate(0.4)) % 16]}{drawn.randrange(30)}" for _ in range(count)]


def _llama(shape: Shape) -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=500, hidden_size=128, intermediate_size=256, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        max_position_embeddings=shape.tokens, initializer_range=0.15,  # heads that are not all alike
    )  # fmt: skip
    return transformers.LlamaModel(config).eval()

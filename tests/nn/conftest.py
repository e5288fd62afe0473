import pytest
import torch


@pytest.fixture(scope="session")
def formula():
    """A layer's output written as in textbooks: sequence by sequence and head by head, the whole matrix in sight."""
    return attended


def attended(layer, x, context, allowed=None):
    if x.ndim == 3:
        return torch.stack([attended(layer, *pair, allowed) for pair in zip(x, context, strict=True)])
    heads = torch.cat([one_head(layer, head, x, context, allowed) for head in range(layer.num_heads)], dim=-1)
    return heads if layer.output_projection is None else layer.output_projection(heads)


def one_head(layer, head, x, context, allowed):
    shared = head * layer.kv_heads // layer.num_heads
    query = projected(layer.query_projection, x, head, layer.head_dim)
    key = projected(layer.key_projection, context, shared, layer.head_dim)
    value = projected(layer.value_projection, context, shared, layer.head_dim)
    if layer.query_norm is not None:
        query, key = normalised(layer.query_norm, query), normalised(layer.key_norm, key)
    if getattr(layer, "rotary", None) is not None:
        query, key = layer.rotary(query), layer.rotary(key)
    scores = query @ key.T / layer.head_dim**0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(dim=-1) @ value


def projected(linear, x, head, head_dim):
    rows = slice(head * head_dim, (head + 1) * head_dim)
    product = x @ linear.weight[rows].T
    return product if linear.bias is None else product + linear.bias[rows]


def normalised(norm, x):
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * norm.weight

"""Layers and records made by hand from one call of `observe`, for tests of what is done with a record."""

from __future__ import annotations

from dataclasses import replace

import torch

import pellucid
from pellucid.problem import Problem
from pellucid.record.layer import Layer, Padding
from pellucid.record.part import Part
from pellucid.record.record import Record
from pellucid.record.studies.repeats import repeats
from pellucid.record.studies.summary import summary_readouts


def observed_layer(
    name="model.layers.0.attention",
    role="causal self",
    *,
    batch=2,
    heads=3,
    kv_heads=3,
    q_len=23,
    k_len=None,
    dim=8,
    sinks=None,
    window=None,
    left_padding=None,
    ids=None,
    sharp=1.0,
    kept=True,
    readouts=(),
    dtype=torch.float32,
    seed=0,
):
    """A layer as watching leaves it: readings of the summary and `readouts`, rows of padding NaN."""
    k_len = q_len if k_len is None else k_len
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, heads, q_len, dim, generator=generator).to(dtype) * sharp
    key = torch.randn(batch, kv_heads, k_len, dim, generator=generator).to(dtype)
    start = torch.zeros(batch, dtype=torch.int64) if left_padding is None else torch.as_tensor(left_padding)
    padded = torch.arange(k_len) < start[:, None]
    mask = _mask(role, padded, window)
    chosen = [*summary_readouts(ids, role=role, first=start), *readouts]
    _, seen = pellucid.observe(query, key, key, enable_gqa=True, mask_mod=mask, sinks=sinks, readouts=chosen)
    readings = {name: seen[name] for name in seen.readouts}
    if ids is not None and role != "cross":
        readings["repeats"] = repeats(ids, padded, role == "causal self", range(q_len))
    if sinks is not None:
        readings["sink_mass"] = torch.exp(sinks[:, None] - seen.lse)
    padding = Padding()
    if left_padding is not None:
        padding = Padding(padded if role != "cross" else None, padded)
        if role != "cross":  # what rows of padding gave is not received
            rows = padded[:, None, :, None].expand(-1, heads, -1, k_len)
            readings["received"] = seen.weights().masked_fill(rows, 0.0).sum(-2)
        readings = _without_padding(readings, padding)
    problem: Problem = seen._problem
    part = Part(0, 0, query, key, problem.scale, problem.score, problem.mask, sinks)
    return Layer(
        name, role, batch, heads, kv_heads, q_len, k_len, dim, dim, problem.scale, sinks is not None,
        head_numbers=list(range(heads)), readings=readings, padding=padding, parts=[part] if kept else [],
    )  # fmt: skip


def observed_again(layer, ids, readouts=()):
    """The layer after its query or key were changed in place; all keys of no padding."""
    part = layer.parts[0]
    _, seen = pellucid.observe(
        part.query, part.key, part.key, enable_gqa=True, is_causal=True,
        readouts=[*summary_readouts(ids, role=layer.role), *readouts],
    )  # fmt: skip
    readings = {name: seen[name] for name in seen.readouts}
    return replace(layer, readings=readings | {"repeats": repeats(ids, None, True, range(layer.q_len))})


def double(layer):
    """The layer in float64."""
    part = layer.parts[0]
    part = replace(part, query=part.query.double(), key=part.key.double())
    lse = torch.logsumexp(part.problem().scores(), -1)
    return replace(layer, parts=[part], readings={"lse": lse})


def made_layer(rule, ids):
    """A causal layer of one head that puts all weight where `rule(q, k)` says, or on the first key if nowhere."""
    length = ids.shape[1]
    place = torch.arange(length)
    allowed = rule(place[:, None], place[None, :])
    allowed[~allowed.any(-1), 0] = True
    query = torch.where(allowed, 40.0, 0.0)[None, None]
    key = torch.eye(length)[None, None]
    _, seen = pellucid.observe(
        query, key, key, scale=1.0, is_causal=True, readouts=summary_readouts(ids, role="causal self")
    )
    problem = seen._problem
    part = Part(0, 0, query, key, 1.0, problem.score, problem.mask, None)
    readings = {name: seen[name] for name in seen.readouts} | {"repeats": repeats(ids, None, True, range(length))}
    return Layer(
        "made", "causal self", 1, 1, 1, length, length, length, length, 1.0,
        head_numbers=[0], readings=readings, parts=[part],
    )  # fmt: skip


def observed_record(*layers, ids=None, **options):
    record = Record("a model made by hand", {layer.name: layer for layer in layers}, **options)
    record.token_ids = ids
    return record


def _mask(role, padded, window):
    if role == "cross":
        return lambda b, h, q, k: ~padded[b, k]
    if role == "self":
        return lambda b, h, q, k: ~padded[b, k]
    if window is None:
        return lambda b, h, q, k: (k <= q) & ~padded[b, k]
    return lambda b, h, q, k: (k <= q) & (k > q - window) & ~padded[b, k]


def _without_padding(readings, padding):
    done = {}
    for name, reading in readings.items():
        if name == "received":
            done[name] = reading.masked_fill(padding.keys[:, None], torch.nan)
        elif name == "topk":
            rows = padding.queries[:, None, :, None]
            done[name] = type(reading)(reading.weights.masked_fill(rows, torch.nan), reading.keys.masked_fill(rows, -1))
        elif name in ("lse", "repeats") or padding.queries is None or not isinstance(reading, torch.Tensor):
            done[name] = reading
        else:
            done[name] = reading.masked_fill(padding.queries[:, None], torch.nan) if reading.ndim == 3 else reading
    return done

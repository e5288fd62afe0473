"""Masks and scores of your own: plain functions of a score and its place, read as they are by every engine.

Three documents are packed into one sequence. A query sees its own document up to itself, and the first two tokens of
it always; scores fall with the distance, by a learned slope a head.
"""

import torch

import pellucid
from pellucid import masks

document = torch.tensor([0] * 17 + [1] * 5 + [2] * 11)
start = torch.tensor([0, 17, 22])
slope = torch.nn.Parameter(torch.tensor([0.1, 0.2, 0.4, 0.8]))


def first_two(b, h, q_idx, kv_idx):
    return kv_idx < start[document[q_idx]] + 2


def nearer_is_better(score, b, h, q_idx, kv_idx):
    return score - slope[h] * torch.abs(q_idx - kv_idx)


torch.manual_seed(0)
query, key, value = torch.randn(3, 2, 4, 33, 16).unbind(0)
output, seen = pellucid.observe(
    query,
    key,
    value,
    mask_mod=masks.documents(document) & (masks.causal() | first_two),
    score_mod=nearer_is_better,
    readouts=[pellucid.readouts.mean_distance(), pellucid.Expect(first_two, "mass_on_first_two")],
)
print("tokens away, a head:", [f"{distance:.1f}" for distance in seen["mean_distance"].mean((0, 2))])
print("on the first two:   ", [f"{mass:.2f}" for mass in seen["mass_on_first_two"].mean((0, 2))])

output.square().mean().backward()
print("the slope learns:   ", bool(slope.grad.abs().min() > 0))

try:
    pellucid.attention(query, key, value, mask_mod=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx and kv_idx > 3)
except pellucid.TraceError as error:
    print("\nWhat cannot be read says so:", error)

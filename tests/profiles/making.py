"""Small profiles: of records of a tiny model with random weights, whose heads differ."""

from functools import cache

import torch

import pellucid
from pellucid import nn

WORDS = ["the", " cat", " sat", ",", " on", " 12", " mat", ".", " \n", " dog", " 7", " ran"]


class Tiny(torch.nn.Module):
    """Two layers of causal self-attention, three heads each."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(len(WORDS), 12)
        self.layers = torch.nn.ModuleList([nn.SelfAttention(12, 3, is_causal=True) for _ in range(2)])

    def forward(self, ids):
        x = self.embedding(ids)
        for layer in self.layers:
            x = x + layer(x)
        return x


@cache
def model():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = Tiny().eval()
        with torch.no_grad():
            for weight in made.parameters():
                weight.mul_(2.0)
    return made


def watched(lengths, seed=0):
    """A record of texts of these lengths, a sequence each, one run a length."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, len(WORDS), (lengths[1], lengths[0]), generator=generator)
    tokens = [[WORDS[number] for number in row] for row in ids.tolist()]
    with torch.inference_mode(), pellucid.watch(model(), keep=True, more=[pellucid.TopK(4)], tokens=tokens) as record:
        model()(ids)
    return record


def profile(length=13, documents=3, first=0, seed=0, **options):
    """The profile of some documents of one length, numbered from `first`."""
    return pellucid.profile_of(watched((length, documents), seed), first=first, **options)


def corpus():
    """Profiles of parts of one corpus."""
    return [profile(13, 3, 0, 0), profile(7, 5, 3, 1), profile(29, 2, 8, 2), profile(2, 1, 10, 3)]

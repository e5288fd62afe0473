"""Profiles of two checkpoints of one tiny model, in memory and in files."""

from functools import cache

import torch

import pellucid
from tests.profiles import making


@cache
def whole():
    """The profile of a corpus of eleven documents."""
    first, *rest = making.corpus()
    return first.merged(*rest)


@cache
def after(documents=11, seed=0):
    """The profile of a model whose first layer has turned sharper, over other documents."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = making.Tiny().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0)
        for weight in model.layers[0].query_projection.parameters():
            weight.mul_(4.0)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, len(making.WORDS), (documents, 13), generator=generator)
    tokens = [[making.WORDS[number] for number in row] for row in ids.tolist()]
    with torch.inference_mode(), pellucid.watch(model, keep=True, more=[pellucid.TopK(4)], tokens=tokens) as record:
        model(ids)
    return pellucid.profile_of(record)

"""Profiles of two checkpoints of one tiny model, in memory and in files."""

from functools import cache

import torch

import pellucid
from pellucid.profiles.layout import Layout
from pellucid.profiles.profile import nothing
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


@cache
def translation():
    """The profile of an encoder-decoder: heads of the source, of the target, and from one to the other."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = torch.nn.Transformer(8, 2, 1, 1, 8, batch_first=True).eval()
        source, target = torch.randn(2, 11, 8), torch.randn(2, 7, 8)
    names = {"tokens": [[f"t{n}" for n in range(7)]] * 2, "source_tokens": [[f"s{n}" for n in range(11)]] * 2}
    mask = torch.nn.Transformer.generate_square_subsequent_mask(7)
    with torch.inference_mode(), pellucid.watch(model, keep=True, more=[pellucid.TopK(4)], **names) as record:
        model(source, target, tgt_mask=mask)
    return pellucid.profile_of(record)


def empty():
    """The profile of no document."""
    return nothing("model", "", Layout())

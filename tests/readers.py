"""A date reader with random weights: it knows no date, but attends as the trained one does."""

import torch

from pellucid.demo.model.date_reader import DateReader, Sizes
from pellucid.demo.model.vocabulary import END, TARGET_OF_TOKEN

SIZES = Sizes(width=24, heads=3, hidden=7, encoder_layers=3, decoder_layers=2)


def untrained_reader() -> DateReader:
    with torch.random.fork_rng():
        torch.manual_seed(1997)
        reader = DateReader("".join(map(chr, range(0x20, 0x7F))) + "年月日", SIZES)
    with torch.no_grad():
        for weight in reader.parameters():
            weight.mul_(2.0)  # sharper attention, so that heads differ
        reader.output.bias[TARGET_OF_TOKEN[END]] = -1e9  # its answers are as long as they may be
    return reader.eval()

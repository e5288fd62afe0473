"""The lessons' own models: a small causal Transformer, and its weights, a file for each task beside this one."""

from pellucid.lessons.model.decoder import START, Decoder, Sizes
from pellucid.lessons.model.weights import load_decoder, save_decoder

__all__ = ["START", "Decoder", "Sizes", "load_decoder", "save_decoder"]

"""Attention as layers: projections into heads, positions and step-by-step decoding around `pellucid.attention`."""

from pellucid.nn.cache import KeyValueCache
from pellucid.nn.cross_attention import CrossAttention
from pellucid.nn.rotary import Rotary
from pellucid.nn.self_attention import SelfAttention

__all__ = ["CrossAttention", "KeyValueCache", "Rotary", "SelfAttention"]

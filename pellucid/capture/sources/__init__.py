"""What calls of attention come from, a file each. A new one is a file here, and a line in SOURCES."""

from pellucid.capture.sources.base import Source
from pellucid.capture.sources.by_hand import BY_HAND
from pellucid.capture.sources.flex import FLEX
from pellucid.capture.sources.multihead import MULTI_HEAD
from pellucid.capture.sources.torch_functions import TORCH
from pellucid.capture.sources.transformers.source import TRANSFORMERS
from pellucid.capture.sources.xformers import XFORMERS

SOURCES: tuple[Source, ...] = (
    TRANSFORMERS,
    TORCH,
    MULTI_HEAD,
    FLEX,
    XFORMERS,
    BY_HAND,
)

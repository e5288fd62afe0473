"""Models of the transformers library as a source: by its registries."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from pellucid.capture.sources.base import Context, Source
from pellucid.capture.sources.transformers import models
from pellucid.capture.sources.transformers.origin import OWN_NAMES, SETTING


class Transformers(Source):
    """What asks the library's registries for its attention function."""

    def watched(self, model: nn.Module) -> AbstractContextManager[object]:
        """Stand in for the functions behind the names that the model has."""
        return models.installed(model) if models.is_transformers(model) else nullcontext()

    def everywhere(self) -> AbstractContextManager[object]:
        """Stand in for "sdpa"."""
        return models.standing_in(None, "sdpa") if "transformers" in sys.modules else nullcontext()

    def take(self, model: nn.Module) -> tuple[Context, ...]:
        """Name the model's implementation "pellucid", and stand in where its code asks for the name that it had."""
        if not models.is_transformers(model):
            return ()
        models.register()
        before = models.replace_settings(model)
        models.note_settings(model, before)
        models.settle(model)
        by_name = any(getattr(config, SETTING) not in OWN_NAMES for config, _ in before)
        return (models.standing_in,) if by_name else ()

    def leave(self, model: nn.Module) -> None:
        """Give the model the names that it had."""
        if models.is_transformers(model):
            models.set_back(model)
            models.settle(model)

    def has_whole(self, model: nn.Module) -> bool:
        """Whether it is a model of the library: functions that it calls itself stay torch's, without a mode's cost."""
        return models.is_transformers(model)

    def arrive(self) -> None:
        """Register the names that the configurations of accelerated models have."""
        if "transformers" in sys.modules:
            models.register()


TRANSFORMERS = Transformers()

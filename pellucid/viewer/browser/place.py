"""A request about a layer: which map of it is meant."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.record.layer import Layer
from pellucid.record.record import Record
from pellucid.viewer.browser.asked import Asked, RefusedError
from pellucid.viewer.browser.pyramid.background import Background
from pellucid.viewer.browser.pyramid.shown import Shown

MEAN_OR_MAX = ("mean", "max")


class BuildingError(Exception):
    """What is asked for is still being computed.

    Attributes:
        fraction: the share that is done.

    """

    def __init__(self, fraction: float) -> None:
        super().__init__(fraction)
        self.fraction = fraction


@dataclass(frozen=True)
class Place:
    """A request about a layer of a record.

    Attributes:
        record: that is asked about.
        layer: of that record.
        asked: the request.
        background: where maps are computed that are not there at once.

    """

    record: Record
    layer: Layer
    asked: Asked
    background: Background

    @property
    def pool(self) -> str:
        """How the pairs of a bin become one."""
        return self.asked.one_of("pool", MEAN_OR_MAX)

    @property
    def over(self) -> str:
        """How several heads become one."""
        return self.asked.one_of("over", MEAN_OR_MAX)

    @property
    def sequence(self) -> int:
        """Of the batch."""
        return self.asked.sequence(self.layer.batch)

    @property
    def heads(self) -> list[int]:
        """Places among the layer's heads."""
        return self.asked.heads(self.layer)

    def shown(self) -> Shown:
        """The map. Raises RefusedError where the layer kept nothing to compute it from."""
        if not self.layer.has_weights:
            raise RefusedError("the layer kept no query and key to compute exact weights from", 404)
        return Shown(self.layer, self.sequence, tuple(self.heads), self.over)

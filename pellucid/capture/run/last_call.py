"""Which layers are of a model's last call: with gradients a record holds no others, for each holds its graph."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class LastCall:
    """The pass in which each layer was entered last.

    A pass of the whole model makes those before the last such pass outdated; one of a part, such as an encoder that is
    called by itself, only what the same modules left in passes before.
    """

    number: int = 0  # of the pass at hand
    is_whole: bool = False  # whether that is one of the whole model
    first: int = 0  # the pass from which on layers stay: the one after the last of the whole model
    passes: dict[str, int] = field(default_factory=dict)  # by layer

    def begin(self, is_whole: bool) -> None:
        """Note that a pass begins."""
        if self.is_whole:
            self.first = self.number + 1
        self.number, self.is_whole = self.number + 1, is_whole

    def enter(self, name: str) -> None:
        """Note that a layer is of the pass at hand."""
        self.passes[name] = self.number

    def outdated(self, base: str) -> list[str]:
        """The layers that a module which attends anew makes outdated; they are forgotten here.

        Args:
            base: the module's name.

        """

        def is_old(name: str, number: int) -> bool:
            return (self.is_whole and number < self.first) or (number < self.number and name.split("#")[0] == base)

        names = [name for name, number in self.passes.items() if is_old(name, number)]
        for name in names:
            del self.passes[name]
        return names

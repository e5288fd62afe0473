"""The modules of a watched model: their names, which of them attend, and how often they ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from torch import nn

from pellucid.capture.run.choice import Chosen, chooser
from pellucid.nn.heads import HeadedAttention

NO_MATRIX = ("linear", "mamba", "ssm", "retention", "rwkv", "deltanet", "fnet")


class Modules:
    """The names of a model's modules, and how often each of them ran.

    A module that several places share has the name of the first; the model itself has that of its class.
    """

    def __init__(self, model: nn.Module) -> None:
        self.root = model
        self.names: dict[int, str] = {id(module): name for name, module in _named(model)}
        self.ran: Counter[str] = Counter()  # how often each module began
        self.expected = attention_modules(model)

    def name_of(self, module: nn.Module) -> str | None:
        """The dotted name of a module, None for one that is no part of the model."""
        return self.names.get(id(module))

    def chooser(self, argument: str, chosen: Chosen) -> Callable[[str], bool]:
        """Whether a module is chosen, by its name. Raises as `choice.chooser`."""
        return chooser(argument, chosen, list(self.expected), self.names.values())

    def followed(self) -> Iterator[nn.Module]:
        """The modules whose calls must be known."""
        return (module for module in self.root.modules() if module is self.root or _may_attend(module))

    def begin(self, module: nn.Module) -> None:
        """Note that a module's forward begins."""
        self.ran[self.names[id(module)]] += 1

    def missed(self, captured: Counter[str], refused: dict[str, str]) -> Iterator[tuple[str, str]]:
        """The attention modules that ran and were not captured, or not each time, and why."""
        yield from refused.items()
        for name, module in self.expected.items():
            seen, ran = sum(captured[other] for other in captured if _related(name, other)), self.ran[name]
            if name not in refused and seen < ran:
                yield name, _reason(module) if not seen else f"{ran - seen} of its {ran} calls were not seen to attend"


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The innermost modules that are attention by the name of their class, by their names in the model."""
    found = {name: module for name, module in _named(model) if _attends(module)}
    return {
        name: module
        for name, module in found.items()
        if not any(_attends(inner) for inner in module.modules() if inner is not module)
    }


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        yield name or type(model).__name__, module


def _may_attend(module: nn.Module) -> bool:
    """Whether a module's own forward may call attention: not a container, and not a single layer."""
    return not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential) and (
        _attends(module) or next(module.children(), None) is not None
    )


def _attends(module: nn.Module) -> bool:
    kind = type(module).__name__.lower()
    return isinstance(module, HeadedAttention) or ("attention" in kind and not kind.endswith("output"))


def _related(name: str, other: str) -> bool:
    """Whether one is the other or inside of it."""
    return name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.")


def _reason(module: nn.Module) -> str:
    kind = type(module).__name__
    if any(word in kind.lower() for word in NO_MATRIX):
        return f"{kind} is not softmax attention: it has no matrix of weights"
    return f"{kind} computes its weights itself, without a function of attention that could be observed"

"""Expressions as text, and back: the form in which they pass through what holds strings and tensors alone."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from pellucid.language.expression import INPUTS, TRUE, Expression, Kind, Number, walk

# op, kind, places of the arguments among the nodes before, and a constant, an input's name or a tensor's place
Node = tuple[str, Kind, tuple[int, ...], str]


def write(*roots: Expression) -> tuple[str, list[Tensor]]:
    """The expressions as one text, and the captured tensors that it counts."""
    places: dict[int, int] = {}
    tensors: list[Tensor] = []
    nodes = []
    for node in walk(*roots):
        value = ""
        if node.op == "load":
            value = str(_place(node.value, tensors))
        elif node.op == "input":
            value = node.value
        elif node.op == "constant":
            value = str(int(node.value)) if node.kind != "float" else repr(node.value)
        places[id(node)] = len(places)
        nodes.append(f"{node.op} {node.kind} {','.join([str(places[id(a)]) for a in node.args])} {value}")
    return ";".join(nodes) + "|" + ",".join([str(places[id(root)]) for root in roots]), tensors


def _place(tensor: Tensor, tensors: list[Tensor]) -> int:
    """The tensor's place in the list, at the end of which it is put if it has none."""
    for place, other in enumerate(tensors):
        if other is tensor:  # torch.compile would guard its id, and compile anew for every other tensor
            return place
    tensors.append(tensor)
    return len(tensors) - 1


def read(text: str, tensors: list[Tensor]) -> list[Expression]:
    """The expressions that `write` wrote, reading other tensors of the same kind."""
    nodes, roots = _parsed(text)
    made: list[Expression] = []
    for op, kind, args, value in nodes:
        if op == "input":
            made.append(INPUTS[value])
        elif op == "constant":
            number = _number(kind, value)
            made.append(TRUE if number is True else Expression(op, kind, value=number))
        else:
            tensor = tensors[int(value)] if op == "load" else None
            made.append(Expression(op, kind, tuple(made[a] for a in args), tensor))
    return [made[root] for root in roots]


@lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[list[Node], list[int]]:
    body, _, roots = text.partition("|")
    nodes: list[Node] = []
    for line in body.split(";"):
        op, kind, args, value = line.split(" ")
        nodes.append((op, kind, tuple(int(a) for a in args.split(",") if a), value))  # type: ignore[arg-type]
    return nodes, [int(root) for root in roots.split(",")]


def _number(kind: Kind, text: str) -> Number:
    return float(text) if kind == "float" else bool(int(text)) if kind == "bool" else int(text)

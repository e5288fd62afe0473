"""Weights that a user has, as a record: each tensor a layer, whose weights are shown as they were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pellucid import legible
from pellucid.record.layer import Layer, Padding
from pellucid.record.observed import role_of
from pellucid.record.record import Record
from pellucid.record.studies.dense import dense_readings
from pellucid.record.texts import Texts, ids_of, texts_of
from pellucid.tensors.chosen import Chosen, positions

_FORMS = "[heads, queries, keys], [batch, heads, queries, keys] or [queries, keys]"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_BEYOND = 1.01  # what a row may sum to for rounding, and is still one of weights that sum to 1


@dataclass(repr=False)
class GivenLayer(Layer):
    """A layer whose weights were given, in place of query and key to compute them from.

    Attributes:
        given: the weights, [batch, heads, q_len, k_len]; not copied.
        version: of that tensor, which changes when it is changed in place.

    """

    given: Tensor = field(default_factory=lambda: torch.empty(0, device="cpu"))
    version: int | None = None

    @property
    def has_weights(self) -> bool:
        """Always."""
        return True

    def of_sequence(self, number: int) -> Layer:
        """The layer of one sequence of the batch alone, as of any layer."""
        return replace(super().of_sequence(number), given=self.given[number : number + 1])  # type: ignore[call-arg]

    def weights(self, queries: Chosen = None, keys: Chosen = None, heads: Chosen = None) -> Tensor:
        """A part of the weights as they were given, in float32 or float64: [batch, heads, queries, keys].

        Args:
            queries: which rows, a slice, one index, or several; all if None. Dimensions are kept.
            keys: which keys, the same way.
            heads: which heads, the same way.

        Raises:
            IndexError: an index beyond the queries, keys or heads.
            RuntimeError: the tensor was changed in place since it was given.

        """
        if self.version != _version(self.given):
            raise RuntimeError("weights: the tensor was changed in place since it was given; give a clone")
        chosen = (("heads", heads, self.heads), ("queries", queries, self.q_len), ("keys", keys, self.k_len))
        found = self.given
        for dimension, (name, which, length) in enumerate(chosen, 1):
            found = _taken(found, dimension, positions(name, which, length, "cpu"))
        return found if found.dtype == torch.float64 else found.float()


def record_of_weights(
    weights: Any, tokens: Texts = None, source_tokens: Texts = None, role: str | None = None
) -> Record:
    """A record of weights that are at hand; nothing is scaled or summed up to 1.

    A row that is NaN in all heads is padding. Where rows sum to less than 1, what is missing counts as a sink's; where
    they sum to more, heads have few numbers.

    Args:
        weights: a tensor or array [heads, queries, keys], [batch, heads, queries, keys] or [queries, keys]; or
            several, a layer each, in a list, a tuple (`outputs.attentions`) or by name.
        tokens: the queries' tokens, a list, or one for each sequence; in self-attention the keys' too.
        source_tokens: the keys' tokens in cross-attention, the same way.
        role: "self", "causal self" or "cross". Where None: cross if source_tokens are given or there are not as many
            keys as queries, else causal if no weight is above the diagonal.

    Raises:
        TypeError: no tensor of floating-point numbers.
        ValueError: weights that are negative, infinite or NaN, or shapes or tokens that do not fit.

    """
    named = {name: tensor_of(name, given) for name, given in _by_name(weights).items()}
    first = next(iter(named.values()))
    layers: dict[str, Layer] = {}
    notes: list[str] = []
    own = source = None
    for name, given in named.items():
        if given.shape[0] != first.shape[0]:
            raise ValueError(f"{name}: its batch of {given.shape[0]} differs from the first's, {first.shape[0]}")
        batch, _, q_len, k_len = given.shape
        own = texts_of("tokens", tokens, batch, q_len)
        source = texts_of("source_tokens", source_tokens, batch, k_len)
        found = role_of(role, q_len, k_len, source is not None, partial(_looks_ahead, given))
        layers[name] = _layer(name, given, found, ids_of(own) if found != "cross" else None, notes)
    record = Record("weights", layers, tokens=own, source_tokens=source)
    record.notes = notes
    return record


def _by_name(weights: Any) -> dict[str, Any]:
    """The layers' weights by name."""
    named = {"weights": weights}
    if isinstance(weights, Mapping):
        named = {str(name): given for name, given in weights.items()}
        if len(named) < len(weights):
            raise ValueError(f"weights: names of layers must differ as texts, got {legible.name(list(weights))}")
    elif _is_several(weights):
        named = {f"layer.{number}": given for number, given in enumerate(weights)}
    if not named:
        raise ValueError(f"weights: at least one tensor {_FORMS} is needed, got none")
    return named


def _is_several(weights: Any) -> bool:
    if isinstance(weights, Tensor):
        return weights.ndim == 5
    of_any = isinstance(weights, list | tuple)
    return of_any and any(_is_array(one) or _is_deep(one) or one is None for one in weights)


def _is_array(one: Any) -> bool:
    return isinstance(one, Tensor) or hasattr(one, "__array__")


def _is_deep(one: Any) -> bool:
    """Whether something in a list is itself one of tensors, or a matrix of numbers."""
    return isinstance(one, list | tuple) and bool(one) and (_is_array(one[0]) or _is_rows(one[0]))


def _is_rows(one: Any) -> bool:
    return isinstance(one, list | tuple) and bool(one) and isinstance(one[0], list | tuple)


def tensor_of(name: str, given: Any) -> Tensor:
    """One layer's weights as a tensor [batch, heads, queries, keys], checked. Raises TypeError or ValueError."""
    if given is None:
        raise TypeError(
            f"{name}: there are no weights, only None; a model of transformers gives them with "
            'attn_implementation="eager", and pellucid.watch(model) needs none'
        )
    if isinstance(given, list | tuple) and given and _is_array(given[0]):
        raise TypeError(
            f"{name}: a tensor {_FORMS} is needed, got a {type(given).__name__} of tensors; give one step's"
        )
    tensor = _as_tensor(name, given)
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"{name}: floating-point numbers are needed, got {tensor.dtype}; convert them with .float()")
    if not 2 <= tensor.ndim <= 4 or not tensor.numel():
        raise ValueError(f"{name}: {_FORMS} is needed, none of them 0, got {list(tensor.shape)}")
    tensor = tensor[(None,) * (4 - tensor.ndim)]
    _check_numbers(name, tensor)
    return tensor


def _as_tensor(name: str, given: Any) -> Tensor:
    if isinstance(given, Tensor):
        if given.is_meta or given.layout != torch.strided or given.is_quantized or given.is_nested:
            raise TypeError(
                f"{name}: a dense tensor with numbers is needed, got one of {given.layout} on {given.device}"
            )
        return given.detach()
    try:
        return torch.tensor(given, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: a tensor {_FORMS} is needed, got {type(given).__name__} ({legible.name(error)})"
        ) from error


def _check_numbers(name: str, tensor: Tensor) -> None:
    nothing = tensor.isnan()
    padding = nothing.all(-1).all(1)  # [batch, queries]
    for what, wrong in (
        ("NaN in a row that has other numbers or is NaN in some heads alone", nothing & ~padding[:, None, :, None]),
        ("below 0", tensor < 0),
        ("infinite", tensor == torch.inf),
    ):
        if bool(wrong.any()):
            batch, head, query, key = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{name}: a weight is 0 or more, got {tensor[batch, head, query, key].item():.6g}, {what}, "
                f"at sequence {batch}, head {head}, query {query}, key {key}"
            )


def _layer(name: str, given: Tensor, role: str, token_ids: Tensor | None, notes: list[str]) -> GivenLayer:
    batch, heads, q_len, k_len = given.shape
    padding = given[:, 0, :, 0].isnan()
    layer = GivenLayer(
        name, role, batch, heads, heads, q_len, k_len, 0, 0, 1.0, head_numbers=list(range(heads)),
        padding=Padding(padding, None) if bool(padding.any()) else Padding(), given=given, version=_version(given),
    )  # fmt: skip
    totals = given.sum(-1, dtype=torch.float64 if given.dtype == torch.float64 else torch.float32)
    largest, least = totals.nan_to_num(0.0).max(), torch.where(totals > 0, totals, 1.0).nan_to_num(1.0).min()
    layer.has_sink = bool(least < 2 - _BEYOND) and bool(largest <= _BEYOND)
    if largest > _BEYOND:
        notes.append(f"{legible.name(name)}: rows sum to as much as {largest:.4g}, so its heads have few numbers")
    elif layer.has_sink:
        notes.append(f"{legible.name(name)}: rows sum to less than 1; what is missing counts as the sink's")
    layer.readings = dense_readings(layer, totals, token_ids, whole=bool(largest <= _BEYOND))
    return layer


def _looks_ahead(given: Tensor) -> bool:
    """Whether a weight lies above the diagonal, in a matrix that has such a place."""
    if given.shape[-2] < 2:
        return True
    rows = torch.arange(given.shape[-2], device=given.device)
    size = max(1, (1 << 24) // max(1, given[:, :, 0].numel()))
    return any(bool((given[..., some, :].nan_to_num().triu(int(some[0]) + 1) > 0).any()) for some in rows.split(size))


def _taken(tensor: Tensor, dimension: int, chosen: Tensor) -> Tensor:
    """The chosen positions along a dimension: a view of neighbours, else a copy."""
    count = len(chosen)
    if count and bool((chosen == torch.arange(int(chosen[0]), int(chosen[0]) + count, device=chosen.device)).all()):
        return tensor.narrow(dimension, int(chosen[0]), count)
    return tensor.index_select(dimension, chosen.to(tensor.device))


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version

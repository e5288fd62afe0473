"""One model class: built small, run, and compared with itself as watched, accelerated, and with Pellucid everywhere."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import pellucid
from tests.sweep import classes, inputs, shrinking

# Of an output's largest number. Models round a softmax or a norm to float32 whatever their weights are.
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3}
WAYS = ("watched", "accelerated", "everywhere")
Run = Callable[[], Any]


@dataclass
class Outcome:
    """What became of one class.

    Attributes:
        name: `file:class`.
        reason: why it could not be built or called; empty if it was.
        modes: how it was run: without padding, padded on either side, in steps with a cache, generating.
        differing: the largest relative difference of each way and mode that is beyond the tolerance, or an error.
        layers: how many layers the record has.
        weights: how many of eager's matrices are a layer's.
        wrong_weights: how many of eager's matrices are none's, though layers of their shape were observed.
        eager_differs: whether the model itself, unwatched, computes something else by its eager attention, whose
            weights are then others'.
        unlisted: how many of eager's matrices are neither observed nor listed as missed.
        missed: kinds of attention modules that were listed as missed, with the reason.

    """

    name: str
    reason: str = ""
    modes: list[str] = field(default_factory=list)
    differing: dict[str, str] = field(default_factory=dict)
    layers: int = 0
    weights: int = 0
    wrong_weights: int = 0
    eager_differs: bool = False
    unlisted: int = 0
    missed: dict[str, str] = field(default_factory=dict)

    @property
    def is_built(self) -> bool:
        """Whether it could be built and called."""
        return not self.reason


def outcome(name: str) -> Outcome:
    """What becomes of a class: in float64, and where that differs in float32 too, which some models alone compute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _outcome(name, torch.float64)
        if found.is_built and not (found.differing or found.wrong_weights):
            return found
        again = _outcome(name, torch.float32)
    return again if again.is_built else found


def _outcome(name: str, dtype: torch.dtype) -> Outcome:
    found = Outcome(name)
    try:
        model, given = _called(classes.load(name), dtype)
    except (shrinking.NotBuiltError, ImportError) as error:
        found.reason = str(error)
        return found
    runs = dict(_runs(model, given))
    found.modes = list(runs)
    _compare(found, model, runs)
    _compare_weights(found, model, given)
    return found


def _called(kind: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """A small model of a class, and inputs that it takes. Raises NotBuiltError."""
    error: Exception | None = None
    lacking: list[str] = []
    for model in shrinking.each_size(kind):
        model = model.to(dtype)
        for given in inputs.guesses(model, dtype):
            try:
                if tensors(_call(model, given), None):
                    return model, given
            except Exception as caught:  # noqa: PERF203  whatever a foreign model raises is a reason
                error = caught
        lacking = inputs.missing(model)
    raise shrinking.NotBuiltError(f"no input for {', '.join(lacking)}" if lacking else shrinking.told(error))


def _call(model: Any, given: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        return model(**given)


def _runs(model: Any, given: dict[str, Any]) -> Iterator[tuple[str, tuple[Run, Tensor | None]]]:
    """The ways of running the model that work without Pellucid, and the mask of tokens of each."""
    candidates: list[tuple[str, Run, Tensor | None]] = [("whole", lambda: _call(model, given), None)]
    for side in ("left", "right"):
        own = inputs.padded(model, given, side)
        if own is not None:
            candidates.append((side, lambda own=own: _call(model, own), own["attention_mask"].bool()))
    candidates.append(("steps", lambda: _steps(model, given), None))
    candidates.append(("generated", lambda: _generated(model, given), None))
    for name, run, mask in candidates:
        try:
            if tensors(run(), mask):
                yield name, (run, mask)
        except Exception:  # noqa: PERF203  a model without a cache, or that does not generate
            continue


def _steps(model: Any, given: dict[str, Any]) -> list[Any]:
    """A prompt and three steps with the model's cache: one word, two words and one."""
    name = "decoder_input_ids" if "decoder_input_ids" in given else "input_ids"
    argument = next(n for n in ("past_key_values", "cache") if n in inspect.signature(model.forward).parameters)
    ids, cache, outputs = given[name], None, []
    for begin, end in ((0, 6), (6, 7), (7, 9), (9, 10)):
        given = given | {name: ids[:, begin:end], argument: cache, "use_cache": True}
        outputs.append(_call(model, given))
        cache = getattr(outputs[-1], argument)
        if cache is None:
            raise ValueError("no cache")
    return outputs


def _generated(model: Any, given: dict[str, Any]) -> Any:
    own = {name: value for name, value in given.items() if name != "decoder_input_ids"}
    own = inputs.padded(model, own, "left") or own
    torch.manual_seed(0)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "output_logits": True, "num_beams": 1}
    return model.generate(**own, **options, return_dict_in_generate=True).logits


def _compare(found: Outcome, model: Any, runs: dict[str, tuple[Run, Tensor | None]]) -> None:
    expected = {mode: tensors(run(), mask) for mode, (run, mask) in runs.items()}
    tolerance = TOLERANCES[model.dtype]
    for mode, (run, mask) in list(runs.items()):
        again = largest(expected[mode], tensors(run(), mask))
        if isinstance(again, str) or again > 0:  # it draws numbers of its own
            found.modes.remove(mode)
            del runs[mode]
    for way in WAYS:
        for mode, (run, mask) in runs.items():
            try:
                with _way(way, model, found):
                    result = tensors(run(), mask)
                difference = largest(expected[mode], result)
            except Exception as error:  # every error that the model alone does not raise is a finding
                difference = shrinking.told(error)
            if isinstance(difference, str) or difference > tolerance:
                found.differing[f"{way} {mode}"] = difference if isinstance(difference, str) else f"{difference:.1e}"


@contextlib.contextmanager
def _way(way: str, model: Any, found: Outcome) -> Iterator[None]:
    if way == "accelerated":
        pellucid.accelerate(model)
        try:
            yield
        finally:
            pellucid.restore(model)
    elif way == "everywhere":
        with pellucid.everywhere():
            yield
    else:
        with _watched(model, found):
            yield


@contextlib.contextmanager
def _watched(model: Any, found: Outcome) -> Iterator[Any]:
    """The model watched; that nothing is found in it is no error here, but noted."""
    modules = dict(model.named_modules())
    try:
        with pellucid.watch(model, keep=True) as record:
            yield record
    except ValueError as error:
        if not str(error).startswith("watch: no softmax attention found"):
            raise
        found.missed.setdefault("", str(error)[:200])
    found.layers = max(found.layers, len(record))
    for missed in record.missed:
        kind = type(modules.get(missed.name, model)).__name__
        found.missed.setdefault(kind, missed.reason)


def _compare_weights(found: Outcome, model: Any, given: dict[str, Any]) -> None:
    own = inputs.padded(model, given, "right") or given
    try:
        with _eager(model):
            outputs = _call(model, own | {"output_attentions": True})
    except Exception:  # it has no eager attention, or does not give its weights
        return
    mask = own["attention_mask"].bool() if own is not given else None
    apart, expected = largest(tensors(outputs, mask), tensors(_call(model, own), mask)), _attentions(outputs)
    found.eager_differs = bool(expected) and (isinstance(apart, str) or apart > TOLERANCES[model.dtype])
    if found.eager_differs:
        return
    with _watched(model, Outcome("")) as record:
        _call(model, own)
    layers = list(record.values())
    for weights in expected:
        alike = [layer for layer in layers if _shape(layer) == weights.shape]
        same = next((layer for layer in alike if _is_same(layer, weights)), None)
        if same is not None:
            layers.remove(same)
            found.weights += 1
        elif alike:
            found.wrong_weights += 1
    seen = len(record) + len(getattr(record, "missed", ()))
    found.unlisted = max(0, len(expected) - seen)


def _shape(layer: Any) -> tuple[int, ...]:
    return (layer.batch, layer.heads, layer.q_len, layer.k_len)


def _is_same(layer: Any, weights: Tensor) -> bool:
    """Whether a layer's weights are these, in rows that have a key: eager spreads the others over masked keys."""
    empty = torch.isinf(layer.lse)[..., None] | _padded(layer)
    own = layer.weights()
    if layer.has_sink and weights.sum(-1).allclose(weights.new_ones(()), atol=TOLERANCES[weights.dtype]):
        own = own / own.sum(-1, keepdim=True)  # some eager functions take the sink's share from the output instead
    difference = (own - weights).abs().masked_fill(empty, 0.0)
    return bool(difference.max() < TOLERANCES[weights.dtype])


def _padded(layer: Any) -> Tensor:
    """Which queries are padding, bool [batch, 1, q_len, 1]: what they look at, nobody sees."""
    queries = layer.padding.queries
    return torch.zeros(1, 1, 1, 1, dtype=torch.bool) if queries is None else queries[:, None, :, None]


@contextlib.contextmanager
def _eager(model: Any) -> Iterator[None]:
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = {number: config._attn_implementation for number, config in configs.items()}
    for config in configs.values():
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for number, config in configs.items():
            config._attn_implementation = before[number]


def _attentions(outputs: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for name, value in outputs.items() if isinstance(outputs, dict) else ():
        own = name.endswith("attentions") and not name.startswith("global")  # a second matrix of the same modules
        if own and isinstance(value, tuple | list):
            matrices = [weights for weights in value if isinstance(weights, Tensor) and weights.ndim == 4]
            found += [weights for weights in matrices if weights.min() >= 0]  # SqueezeBert gives its scores
    return found


def tensors(outputs: Any, tokens: Tensor | None) -> list[Tensor]:
    """The numbers that a model gives: no weights of attention, no cache, no rows of padding."""
    if isinstance(outputs, Tensor):
        if not outputs.is_floating_point():
            return []
        own = None if tokens is None else _rows_of(tokens, outputs)
        return [(outputs if own is None else outputs[own]).detach().clone()]
    if isinstance(outputs, dict):
        named = [value for name, value in outputs.items() if not name.endswith(("attentions", "key_values", "cache"))]
        return [tensor for value in named for tensor in tensors(value, tokens)]
    if isinstance(outputs, tuple | list):
        return [tensor for value in outputs for tensor in tensors(value, tokens)]
    return []


def _rows_of(tokens: Tensor, output: Tensor) -> Tensor | None:
    """Which rows of an output are of tokens, bool [batch, rows]; None if it has no row for each token."""
    if output.shape[: tokens.ndim] == tokens.shape:
        return tokens
    more = output.shape[1] - tokens.shape[1] if output.ndim == 3 and len(output) == len(tokens) else 0
    if more != 1 or tokens.ndim != 2:
        return None
    # A model's own word may stand before or behind those given: what is a token either way.
    return torch.nn.functional.pad(tokens, (0, more), value=True) & torch.nn.functional.pad(
        tokens, (more, 0), value=True
    )


def largest(expected: list[Tensor], found: list[Tensor]) -> float | str:
    """The largest difference, as a part of each tensor's largest number; or what is not alike."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return "other shapes"
    differences = [0.0]
    for one, other in zip(expected, found, strict=True):
        if not one.numel():
            continue
        if not torch.equal(one.isfinite(), other.isfinite()):
            return "other places are not finite"
        finite = one.isfinite()
        scale = one[finite].abs().max().item() if finite.any() else 1.0
        differences.append(((one - other)[finite].abs().max().item() if finite.any() else 0.0) / (scale or 1.0))
    return max(differences)

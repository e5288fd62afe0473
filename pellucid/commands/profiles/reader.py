"""A model of the transformers library as it reads a corpus."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid.commands.errors import InputError
from pellucid.commands.models import TextModel, load_model
from pellucid.profiles.running.reader import Encoded
from pellucid.record.readable import token_texts


@dataclass(frozen=True)
class CorpusReader:
    """A model, its tokenizer, and how many tokens of a document it is given at most, None for all."""

    loaded: TextModel
    limit: int | None

    @property
    def model(self) -> nn.Module:
        """What is watched."""
        return self.loaded.model

    @property
    def name(self) -> str:
        """What a profile calls it."""
        return f"{type(self.model).__name__} {'/'.join(Path(self.loaded.name).parts[-2:])}"

    @cached_property
    def pads(self) -> bool:
        """Whether it can be told which tokens are padding."""
        return "attention_mask" in self._takes

    def encode(self, text: str) -> Encoded:
        """A text's tokens, cut to the limit.

        Raises:
            ValueError: the tokenizer fails on it.
            InputError: the tokenizer knows tokens that the model does not.

        """
        try:
            ids, special = self._ids(text)
            left_out = 0 if self.limit is None else max(0, len(ids) - self.limit)
            if left_out:
                ids, special = self._ids(text, truncation=True, max_length=self.limit)
            found = Encoded(ids, tuple(token_texts(self.loaded.tokenizer, ids)), special, left_out)
        except (InputError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # of every kind, a PanicException of the tokenizers among them
            reason, *_ = str(error).splitlines() or [type(error).__name__]
            raise ValueError(f"the model's tokenizer fails on it: {reason}") from error
        if ids:
            self.loaded.check_known(torch.tensor([ids], device="cpu"))
        return found

    def _ids(self, text: str, **options: Any) -> tuple[list[int], tuple[bool, ...]]:
        found = self.loaded.tokenizer(text, verbose=False, return_special_tokens_mask=True, **options)
        return list(found["input_ids"]), tuple(map(bool, found["special_tokens_mask"]))

    def run(self, ids: list[list[int]]) -> None:
        """Call the model on a batch, padded at the right, and no head over its words: that is not looked at."""
        longest = max(map(len, ids))
        pad = self.loaded.tokenizer.pad_token_id or 0
        rows = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in ids], device="cpu")
        given: dict[str, Any] = {"input_ids": rows}
        if self.pads:
            mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
            given["attention_mask"] = torch.tensor(mask, device="cpu")
        if "use_cache" in self._takes:
            given["use_cache"] = False
        self._body(**given)

    @cached_property
    def _body(self) -> nn.Module:
        """The model without what it makes of its last layer."""
        body = getattr(self.model, "base_model", None)
        takes = isinstance(body, nn.Module) and "input_ids" in inspect.signature(body.forward).parameters
        return body if takes and isinstance(body, nn.Module) else self.model

    @cached_property
    def _takes(self) -> frozenset[str]:
        return frozenset(inspect.signature(self._body.forward).parameters)


def load_reader(name: str, max_tokens: int | None) -> CorpusReader:
    """A model that reads one text.

    Raises:
        InputError: there is none, or it reads one text and writes another, or allows no such length.

    """
    loaded = load_model(name)
    if loaded.writes_from_source:
        raise InputError(f"--model {name}: it reads one text and writes another; a profile is of models that read one")
    allowed = loaded.limit
    if max_tokens is not None and allowed is not None and max_tokens > allowed:
        raise InputError(f"--max-tokens: {name} allows {allowed}, got {max_tokens}")
    return CorpusReader(loaded, allowed if max_tokens is None else max_tokens)

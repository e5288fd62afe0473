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
        """Whether it can be told which tokens are padding; of a model that writes, lengths never differ."""
        return "attention_mask" in self._takes and not self.loaded.writes_from_source

    def encode(self, text: str, target: str | None = None) -> Encoded:
        """A text's tokens, cut to the limit; of a model that writes from it, what its decoder is given of the target.

        Raises:
            ValueError: the tokenizer fails on it.
            InputError: the tokenizer knows tokens that the model does not.

        """
        source = self._encoded(text, "encoder")
        if target is None:
            return source
        written = self._encoded(target, "decoder")
        if not written.ids:
            return written._replace(source=source)
        (ids,) = self.loaded.shifted(torch.tensor([written.ids], device="cpu")).tolist()
        special = (True, *written.special[:-1])
        return Encoded(ids, tuple(token_texts(self.loaded.tokenizer, ids)), special, written.left_out, source)

    def _encoded(self, text: str, side: str) -> Encoded:
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
            self.loaded.check_known(torch.tensor([ids], device="cpu"), side)
        return found

    def _ids(self, text: str, **options: Any) -> tuple[list[int], tuple[bool, ...]]:
        found = self.loaded.tokenizer(text, verbose=False, return_special_tokens_mask=True, **options)
        return list(found["input_ids"]), tuple(map(bool, found["special_tokens_mask"]))

    def run(self, batch: list[Encoded]) -> None:
        """Call the model on a batch, padded at the right, and no head over its words: that is not looked at."""
        given: dict[str, Any] = {}
        if self.loaded.writes_from_source:  # of one length: nothing is padded
            given["input_ids"] = torch.tensor([one.source.ids for one in batch if one.source], device="cpu")
            given["decoder_input_ids"] = torch.tensor([one.ids for one in batch], device="cpu")
        else:
            ids = [one.ids for one in batch]
            longest = max(map(len, ids))
            pad = self.loaded.tokenizer.pad_token_id or 0
            given["input_ids"] = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in ids], device="cpu")
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


def load_reader(name: str, max_tokens: int | None, *, writes: bool = False) -> CorpusReader:
    """A model that reads documents.

    Args:
        name: a model's folder, or a name on the hub.
        max_tokens: of a text, None for as many as the model allows.
        writes: whether documents have a target, which a model writes from what it reads.

    Raises:
        InputError: there is none, or allows no such length, or documents have not the texts that it needs.

    """
    loaded = load_model(name)
    if loaded.writes_from_source and not writes:
        raise InputError(
            f"--model {name}: it reads one text and writes another; name the field that holds the other: --target-field"
        )
    if writes and not loaded.writes_from_source:
        raise InputError(f"--target-field: {name} reads one text and writes none beside it; leave it out")
    allowed = loaded.limit
    if max_tokens is not None and allowed is not None and max_tokens > allowed:
        raise InputError(f"--max-tokens: {name} allows {allowed}, got {max_tokens}")
    return CorpusReader(loaded, allowed if max_tokens is None else max_tokens)

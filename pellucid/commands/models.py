"""Models of the transformers library for `pellucid watch`: loaded from a folder or by name, with their tokenizer."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.commands.errors import InputError
from pellucid.record.readable import token_texts

_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_STARTS = ("decoder_start_token_id", "bos_token_id", "pad_token_id")  # what a decoder begins with, whichever is set
HUB_ANSWERS_IN = 5.0  # seconds, or it counts as not there
_UNLIMITED = 1_000_000  # a tokenizer without a limit says a very large one
_WORD_BEGINS = "▁"  # what sentencepiece puts before a word: no text by itself
_NAMED = 3  # of the parameters that a folder lacks


@dataclass(frozen=True)
class ModelInputs:
    """What a model is called with, and the tokens of it."""

    inputs: dict[str, Tensor]
    tokens: list[str]  # of the queries
    source_tokens: list[str] | None = None  # of what cross-attention looks at
    notes: tuple[str, ...] = ()  # what is to be known of how they were made, in sentences


@dataclass(frozen=True)
class TextModel:
    """A model that reads text."""

    name: str  # as it was asked for
    model: nn.Module
    tokenizer: Any
    notes: tuple[str, ...] = ()  # what is to be known of how it was loaded, in sentences

    @property
    def writes_from_source(self) -> bool:
        """Whether it is an encoder-decoder: one text is read, another written."""
        return bool(self._config.is_encoder_decoder)

    @property
    def _config(self) -> Any:
        return self.model.config

    def given(self, text: str, target: str | None, *, truncate: bool) -> ModelInputs:
        """The model's inputs for a text, and for an encoder-decoder the text that it writes.

        Raises:
            InputError: a text is empty, longer than the model allows or of tokens that it does not know.

        """
        with _as_input_errors(f"--model {self.name}: its tokenizer fails on the text: "):
            return self._given(text, target, truncate)

    def _given(self, text: str, target: str | None, truncate: bool) -> ModelInputs:
        ids, notes = self._encoded("--text", text, truncate)
        self.check_known(ids, "encoder")
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if target is None:
            return ModelInputs(inputs, self._tokens(ids), notes=notes)
        target_ids, more = self._encoded("--target", target, truncate)
        written = self.shifted(target_ids)
        self.check_known(written, "decoder")
        given = inputs | {"decoder_input_ids": written}
        return ModelInputs(given, self._tokens(written), self._tokens(ids), notes + more)

    def _encoded(self, option: str, text: str, truncate: bool) -> tuple[Tensor, tuple[str, ...]]:
        """The ids of a text, and what is to be known of them."""
        notes: tuple[str, ...] = ()
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        limit = self.limit
        if limit is not None and len(ids) > limit:
            if not truncate:
                raise InputError(
                    f"{option}: it has {len(ids)} tokens, and {self.name} allows {limit}; "
                    "give a shorter text, or --truncate"
                )
            notes = (f"{option}: {len(ids)} tokens were cut to {limit}",)
            ids = self.tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        if not ids:
            raise InputError(f"{option}: it has no token; write something into it")
        return torch.tensor([ids], device="cpu"), notes

    def check_known(self, ids: Tensor, side: str = "encoder") -> None:
        """Raise InputError for ids that the model, or the side of it that reads them, has no embedding of."""
        known, largest = self._vocabulary(side), int(ids.max())
        if known is not None and largest >= known:
            raise InputError(
                f"--model {self.name}: its tokenizer, of {len(self.tokenizer)} tokens, gives the token id {largest}, "
                f"and the model's vocabulary has {known}; give a model with the tokenizer that it was trained with"
            )

    def _vocabulary(self, side: str) -> int | None:
        """How many token ids the model has embeddings of, or None if it does not look them up in a table."""
        try:
            model: Any = self.model
            reads = getattr(model, f"get_{side}")() if self.writes_from_source else model
            table = reads.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            return None
        return table.num_embeddings if isinstance(table, nn.Embedding) else None

    @property
    def limit(self) -> int | None:
        """How many tokens the model has positions for, or None."""
        text = self._config.get_text_config()
        known = [getattr(text, name) for name in _POSITIONS if isinstance(getattr(text, name, None), int)]
        positions = [number for number in known if number > 0]
        if not positions:  # positions are relative: no text is too long
            return None
        own = getattr(self.tokenizer, "model_max_length", None)
        return min([positions[0], *([own] if isinstance(own, int) and own < _UNLIMITED else [])])

    def shifted(self, written: Tensor) -> Tensor:
        """What the decoder is given: the start token, then what was written but for the last."""
        known = (
            getattr(self.model, "generation_config", None),
            self._config.get_text_config(decoder=True),
            self._config,
        )
        starts = (getattr(config, name, None) for name in _STARTS for config in known)
        start = next((token for token in starts if isinstance(token, int)), 0)
        return torch.cat([torch.full_like(written[:, :1], start), written[:, :-1]], 1)

    def _tokens(self, ids: Tensor) -> list[str]:
        """The tokens as they read."""
        return token_texts(self.tokenizer, ids[0].tolist())


def load_model(name: str) -> TextModel:
    """A model of the transformers library.

    Args:
        name: a folder that `save_pretrained` wrote, or a name that the library finds.

    Raises:
        InputError: transformers is missing, or there is no such model, or it reads no text or has no tokenizer.

    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise InputError(f"--model: needs {error.name}, which is not installed; pip install transformers") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    _check_folder(name)
    config = _loaded(name, "a model", transformers.AutoConfig.from_pretrained)
    _check_attention(name, config)
    model, missing = _model(name, _class_of(transformers, config))
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        raise InputError(f"--model {name}: it reads {model.main_input_name}, not text; watch it from Python")
    tokenizer = _loaded(name, "a tokenizer", transformers.AutoTokenizer.from_pretrained)
    if _knows_no_text(tokenizer):
        raise InputError(
            f"--model {name}: has no tokenizer: {type(tokenizer).__name__} finds no vocabulary there; save the model's "
            "own tokenizer into the folder (tokenizer.save_pretrained)"
        )
    return TextModel(name, model, tokenizer, (_told(missing),) if missing else ())


def _model(name: str, kind: Any) -> tuple[nn.Module, list[str]]:
    """The model, and the names of its parameters that the folder does not have.

    The library draws those at random: here the same numbers each time, so that a record may be resumed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, info = _loaded(name, "a model", kind.from_pretrained, weights_only=True, output_loading_info=True)
    missing = set(info["missing_keys"])
    return model.eval(), [parameter for parameter, _ in model.named_parameters() if parameter in missing]


def _told(missing: list[str]) -> str:
    rest = len(missing) - _NAMED
    few = ", ".join(missing[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    are = "parameter is" if len(missing) == 1 else "parameters are"
    return f"{len(missing)} {are} missing from the model's files and newly initialized: {few}"


def _knows_no_text(tokenizer: Any) -> bool:
    """Whether the library made up a tokenizer: without its files, many have special tokens and no other."""
    if not getattr(tokenizer, "vocab_files_names", None):  # of bytes or characters: it needs no file
        return False
    return set(tokenizer.get_vocab()) <= {*tokenizer.all_special_tokens, _WORD_BEGINS}


def _check_folder(name: str) -> None:
    path = Path(name)
    looks_like_path = os.path.lexists(name) or name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path and not path.is_dir():
        raise InputError(f"--model {name}: {'is a file, not a folder' if path.exists() else 'there is no such folder'}")
    if looks_like_path and not (path / "config.json").is_file():
        raise InputError(f"--model {name}: is no model's folder: it holds no config.json")
    if looks_like_path and os.path.lexists(path / "adapter_config.json"):
        raise InputError(f"--model {name}: holds an adapter to a model; merge it into the model, and give that")


def _check_attention(name: str, config: Any) -> None:
    """Refuse a configuration that names code to fetch from elsewhere as its attention, at whatever depth."""
    parts = [config, *(getattr(config, part, None) for part in getattr(config, "sub_configs", ()))]
    for part in parts:
        kind = getattr(part, "_attn_implementation", None)
        if isinstance(kind, str) and "/" in kind:
            raise InputError(f"--model {name}: its configuration asks for the code of {kind}, which is not run")


def _loaded(name: str, what: str, load: Callable[..., Any], **options: Any) -> Any:
    """What `load` gives, its warnings kept from the screen; whatever it raises as one message.

    No code of the model's own folder runs, and the library's question whether it may finds nobody who answers.
    """
    with _as_input_errors(f"--model {name}: no {what.split()[-1]} can be loaded from it: "), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stderr(StringIO()), _nobody_answers():
            return _from_here_or_hub(name, partial(load, trust_remote_code=False, **options))


@contextmanager
def _as_input_errors(told: str) -> Iterator[None]:
    """Whatever the library raises as one message, which begins with `told`."""
    try:
        yield
    except (InputError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # of every kind: OSError, KeyError, RuntimeError, the tokenizers' PanicException ...
        reason = _first_words(str(error)) or type(error).__name__
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own, which is not run; give a model that transformers knows by itself"
        raise InputError(f"{told}{reason}") from error


def _first_words(told: str) -> str:
    """The first line of a message that says something, and what follows it where that is a list."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return " ".join(lines if lines and lines[0].endswith(":") else lines[:1])


@contextmanager
def _nobody_answers() -> Iterator[None]:
    """Standard input at its end, for whoever asks a question there."""
    usual, sys.stdin = sys.stdin, StringIO()
    try:
        yield
    finally:
        sys.stdin = usual


def _from_here_or_hub(name: str, load: Callable[..., Any]) -> Any:
    """What `load` gives from this machine alone, or if that lacks a file, from the hub."""
    try:
        return load(name, local_files_only=True)
    except OSError:
        if Path(name).is_dir():
            raise
    _ask_hub(name)
    return load(name)


def _ask_hub(name: str) -> None:
    """Raise InputError unless the hub has a model: at once, where the library would try again for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    hub = HfApi()
    try:
        hub.model_info(name, timeout=HUB_ANSWERS_IN)
    except (RepositoryNotFoundError, HFValidationError):
        reason = f"{hub.endpoint} has no model of that name that you may read"
    except HfHubHTTPError:  # the hub is there; what it has against the name the library tells
        return
    except Exception:  # of the HTTP client, which is another in each version; or it was told to stay offline
        reason = f"{hub.endpoint} cannot be reached"
    else:
        return
    raise InputError(
        f"--model {name}: is no folder, was not downloaded before, and {reason}; "
        "give a model's folder, or the name of a model on the hub or in its cache"
    )


def _class_of(transformers: Any, config: Any) -> Any:
    """The class that the model was saved as, else the plain one of its kind."""
    for architecture in config.architectures or ():
        known = getattr(transformers, architecture, None) if isinstance(architecture, str) else None
        if isinstance(known, type) and issubclass(known, transformers.PreTrainedModel):
            return known
    return transformers.AutoModel

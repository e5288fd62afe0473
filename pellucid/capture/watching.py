"""`watch`: a model observed inside a `with`, and as it was before after it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pellucid import legible
from pellucid.arguments import check_names
from pellucid.capture.attending import apart, watching
from pellucid.capture.called import led
from pellucid.capture.calls import carried
from pellucid.capture.capturing import Capture
from pellucid.capture.contexts import Counted
from pellucid.capture.media.media import Media
from pellucid.capture.run.choice import Chosen
from pellucid.capture.run.modules import Modules
from pellucid.capture.run.progress import Bar, Listener
from pellucid.capture.run.session import Session
from pellucid.capture.run.tokens import TokenIds, word_embeddings
from pellucid.capture.sources import SOURCES
from pellucid.readouts import Readout
from pellucid.record import belonging
from pellucid.record.disk.told import told
from pellucid.record.frames import Frames
from pellucid.record.images import Image
from pellucid.record.layer import Layer, OnLayer, Span
from pellucid.record.record import Record
from pellucid.record.sharing.ranks import Ranks
from pellucid.record.studies.beyond import summary_readouts

if TYPE_CHECKING:
    from pellucid.record.disk.writer import RecordWriter
    from pellucid.record.sharing.saving import SharedWriter


@contextmanager
def watch(
    model: nn.Module,
    readouts: Iterable[Readout] | None = None,
    *,
    layers: Chosen = True,
    heads: Sequence[int] | None = None,
    keep: Chosen = False,
    gradients: bool = False,
    more: Iterable[Readout] = (),
    tokens: list[list[str]] | None = None,
    source_tokens: list[list[str]] | None = None,
    segments: Mapping[str, Span] | None = None,
    images: Sequence[Image] | None = None,
    frames: Sequence[Frames] | None = None,
    out: str | Path | RecordWriter | None = None,
    resume: bool = False,
    on_layer: OnLayer | None = None,
    progress: bool | Listener = False,
    ranks: Mapping[str, Any] | None = None,
) -> Iterator[Record]:
    """A Record that fills while the model runs inside the `with`: what each of its attention modules does.

    The model computes what it always does, with Pellucid's operator where that is the same, and is as before when the
    `with` is left, whatever leaves it. Other threads and tasks are not seen, unless they run in a copy of this context
    (`contextvars`). Softmax attention is seen in models of transformers, in whatever calls flex_attention,
    scaled_dot_product_attention, nn.MultiheadAttention, xFormers' memory_efficient_attention or pellucid.attention, in
    pellucid.nn, and where a model writes its products and softmax itself. Models that torch.compile has compiled run as
    they are written meanwhile.

    Args:
        model: any module.
        readouts: what to read of every layer, from `pellucid.readouts`; what `record.summary()` needs if None.
        layers: which attention modules to observe: True for all; names, patterns with `*`, or numbers.
        heads: numbers of the heads to observe, all if None.
        keep: which layers also keep query and key, for exact weights later; chosen like `layers`.
        gradients: whether readings carry gradients, to be part of a loss. The record then holds the model's last call.
            Their graph takes `record.graph_bytes` until backward.
        more: what to read beside what the summary needs; where `readouts` is given, it says everything.
        tokens: the tokens of each sequence of the batch, to be shown.
        source_tokens: the same for what cross-attention looks at.
        segments: named ranges of tokens: prompt, answer, source, image ...
        images: the pictures whose patches are tokens; where None, those of models that are known. None at all: ().
        frames: the sound whose frames are tokens, the same way.
        out: a folder `name.attn/` to write each layer to as soon as it is complete; it then leaves memory. Or a
            RecordWriter, which whoever made it closes. With `ranks` all write one record, which all then have.
        resume: whether a record in `out` is gone on with: the layers that it has whole are not read again. It must be
            of the same model, tokens and readouts, with query and key kept of the same layers.
        on_layer: called with each Layer once it is complete; what it returns takes the layer's place, and is written.
        progress: True for a bar in the terminal, or a function that is called with a Progress for each layer.
        ranks: of a run that torch.distributed divides, which ranks have the other parts: a mapping of "positions"
            (context parallelism), "heads" (tensor), "sequences" (data) and "layers" (pipeline) to a process group or a
            mesh of one dimension, as in {"heads": mesh["tp"]}. Each rank's record is its part, heads under their
            numbers in the model, rows from `layer.start` on; `record.gather()` and `record.save()` are of all. {}:
            every rank is for itself.

    Yields:
        The Record. Layers are in it as soon as they have run.

    Raises:
        TypeError, ValueError, IndexError: a choice of layers or heads that the model does not have, before it runs.
        ValueError: on leaving, if the model ran and no softmax attention was found in it. With gradients, for readouts
            that have none, and for `out`.
        RuntimeError: with gradients, when the model runs where torch computes none. In one of several processes, when a
            module has fewer heads than its configuration says, and `ranks` does not say where the others are.

    Example:
        >>> import torch, pellucid
        >>> model = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
        >>> with pellucid.watch(model, keep=True) as record:
        ...     output = model(torch.rand(1, 5, 8))
        >>> record.layers, record["self_attn"].entropy.shape, record["self_attn"].weights(queries=0).shape
        (['self_attn'], torch.Size([1, 2, 5]), torch.Size([1, 2, 1, 5]))

    """
    if resume and out is None:
        raise ValueError("resume: needs out, the record to go on with")
    session = _session(model, readouts, layers, heads, keep)
    session.more = _beside_the_summary(_checked(more) or ()) if session.readouts is None else ()
    session.gradients = _with_gradients(gradients, out, (*(session.readouts or ()), *session.more))
    record = session.record
    record.ranks = None if ranks is None else Ranks(ranks)
    record.tokens, record.source_tokens = tokens, source_tokens
    record.segments = dict(segments or {})
    record.images, record.frames = images or (), frames or ()
    session.media = Media(session.modules, record, images=images is None, frames=frames is None)
    record.readouts = [*(["summary"] if session.readouts is None else told(session.readouts)), *told(session.more)]
    with ExitStack() as stack:
        listener = _listener(progress, stack)
        session.listener = None if listener is None else apart(listener)
        session.on_layer = on_layer = None if on_layer is None else apart(on_layer)
        if out is not None:
            writer = (_shared_writer if record.ranks else _writer)(out, resume, session, stack)
            session.stored = frozenset(writer.written)
            session.on_layer = _written(writer, on_layer, session.stored)
        stack.enter_context(_captured(model, session))
        record.complete = False
        try:
            yield record
        except BaseException:
            if record.ranks and out is not None:  # other ranks may not come to it
                session.on_layer = None
            session.salvage()
            raise
        session.finish()
        _note_unplaced(record, "images", images or ())
        _note_unplaced(record, "frames", frames or ())
        record.complete = True
    if record.ranks and out is not None:
        record.ranks = Ranks({})  # each rank has the whole
    _report(session, model)


def _note_unplaced(record: Record, argument: str, items: Sequence[Image] | Sequence[Frames]) -> None:
    """Say of what was given that it belongs to no layer, now that there are layers."""
    try:
        belonging.check(argument, items, record.outlines())
    except ValueError as error:
        record.notes.append(str(error))
        warnings.warn(f"watch: {error}", stacklevel=5)


def _session(
    model: nn.Module, readouts: Iterable[Readout] | None, layers: Chosen, heads: Sequence[int] | None, keep: Chosen
) -> Session:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: a torch.nn.Module is needed, got {type(model).__name__}")
    modules = Modules(model)
    return Session(
        modules,
        Record(_described(model)),
        _checked(readouts),
        modules.chooser("layers", layers),
        modules.chooser("keep", keep),
        _head_numbers(heads),
    )


def _described(model: nn.Module) -> str:
    """The model's class and, where it says so, its checkpoint."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    return f"{type(model).__name__} {name}".strip()


def _checked(readouts: Iterable[Readout] | None) -> tuple[Readout, ...] | None:
    if readouts is None:
        return None
    chosen = tuple(readouts) if isinstance(readouts, Iterable) and not isinstance(readouts, str) else (readouts,)
    check_names(chosen, Layer)
    return chosen


def _with_gradients(gradients: bool, out: object, readouts: tuple[Readout, ...]) -> bool:
    """Whether readings carry gradients. Raises TypeError or ValueError where that cannot be."""
    if not isinstance(gradients, bool):
        raise TypeError(f"gradients: True or False is needed, got {gradients!r}")
    if gradients and out is not None:
        raise ValueError("gradients: a layer written to out leaves memory, and its graph with it; save it afterwards")
    if gradients:
        carried.check_readouts(readouts)
    return gradients


def _beside_the_summary(more: tuple[Readout, ...]) -> tuple[Readout, ...]:
    """Those that the summary does not read anyway. Raises ValueError for one under the name of another of its own."""
    own = {readout.name: readout for readout in summary_readouts(torch.zeros(1, 1, dtype=torch.int64, device="cpu"))}
    for readout in more:
        same = own.get(readout.name)
        if same is not None and (type(same) is not type(readout) or vars(same) != vars(readout)):
            raise ValueError(
                f"more: the summary reads {readout.name!r} in another way; give all that is to be read as readouts"
            )
    return tuple(readout for readout in more if readout.name not in own)


def _head_numbers(heads: Sequence[int] | None) -> torch.Tensor | None:
    if heads is None:
        return None
    numbers = list(heads)
    if not numbers or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
        raise ValueError(f"heads: numbers of heads from 0 are needed, or None for all, got {heads!r}")
    return torch.tensor(numbers, device="cpu")


def _listener(progress: bool | Listener, stack: ExitStack) -> Listener | None:
    if not isinstance(progress, bool):
        return progress
    if not progress:
        return None
    bar = Bar()
    stack.callback(bar.close)
    return bar


def _writer(out: str | Path | RecordWriter, resume: bool, session: Session, stack: ExitStack) -> RecordWriter:
    from pellucid.record.disk.writer import RecordWriter, writing

    if isinstance(out, RecordWriter):
        return out
    return stack.enter_context(writing(out, session.record, resume=resume, keeps=session.keeps))


def _shared_writer(out: str | Path | RecordWriter, resume: bool, session: Session, stack: ExitStack) -> SharedWriter:
    from pellucid.record.disk.writer import RecordWriter
    from pellucid.record.sharing.saving import writing

    ranks = session.record.ranks
    assert ranks is not None
    if isinstance(out, RecordWriter):
        raise ValueError("out: of a run that ranks divide a folder is needed, got a RecordWriter")
    if "layers" in ranks.groups or session.heads is not None:
        raise ValueError(
            "out: ranks write each layer together, so all must have it, which they need not with heads=, or ranks that "
            "divide layers; record.save(path) writes it afterwards"
        )
    return stack.enter_context(writing(Path(out), session.record, ranks, resume=resume, keeps=session.keeps))


def _written(writer: RecordWriter | SharedWriter, on_layer: OnLayer | None, stored: frozenset[str]) -> OnLayer:
    """What writes a layer, as `on_layer` gives it back. One that is stored is only compared."""

    def write(layer: Layer) -> Layer:
        changed = on_layer(layer) if on_layer is not None and layer.name not in stored else None
        return writer.add(layer if changed is None else changed)

    return write


@contextmanager
def _captured(model: nn.Module, session: Session) -> Iterator[None]:
    """Every way in which the model may attend, led to the session."""
    session.tokens = TokenIds(word_embeddings(model))
    session.capture = Capture
    with ExitStack() as stack:
        stack.enter_context(RUN_AS_WRITTEN.made())
        stack.enter_context(watching(session))
        stack.callback(session.caches.release)
        stack.enter_context(led([*session.modules.followed(), *session.tokens.tables]))
        for source in SOURCES:
            stack.enter_context(source.watched(model))
        yield


def _force_eager() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)


RUN_AS_WRITTEN = Counted(_force_eager)  # what torch.compile has compiled, in all threads: torch knows no other way


def _report(session: Session, model: nn.Module) -> None:
    """Raise if nothing was found, warn of what was missed."""
    record, ran = session.record, session.modules.ran
    if not session.captured:
        kind = type(model).__name__
        if not ran:
            raise ValueError(
                f"watch: {kind} was not called inside the `with`; call it there, "
                "in another thread by contextvars.copy_context().run"
            )
        reasons = "; ".join(f"{missed.name}: {missed.reason}" for missed in record.missed[:3])
        raise ValueError(f"watch: no softmax attention found in {kind}" + (f" ({reasons})" if reasons else ""))
    if record.missed:
        few = "; ".join(f"{missed.name}: {missed.reason}" for missed in record.missed[:3])
        more = f"; and {len(record.missed) - 3} more" if len(record.missed) > 3 else ""
        missed = legible.message(f"watch: {len(record.missed)} attention modules were not observed. {few}{more}")
        warnings.warn(missed, stacklevel=4)

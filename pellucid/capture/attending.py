"""Who watches a module, and its calls of attention led there.

Whoever captures a call, of whichever library, hands it to `attend`; what belongs to no watched model is only computed.
Who watches is asked of the context in which a module runs: other threads and tasks run the same model unseen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from pellucid.capture.calls import carried, reading
from pellucid.capture.calls.call import Call, of_cut
from pellucid.capture.calls.members import is_inside, members
from pellucid.capture.calls.stretch import cut
from pellucid.capture.contexts import Opened
from pellucid.capture.modes import lifted
from pellucid.capture.packed import packed_apart
from pellucid.capture.run.session import Seen, Session, observation
from pellucid.distributed.asked import is_shared_here, output_of_all
from pellucid.language import TraceError
from pellucid.readouts import Entropy, LogSumExp, MaxScore
from pellucid.tensors.transformed import is_transformed

T = TypeVar("T")
_sessions: Opened[Session] = Opened("sessions")
_running: ContextVar[tuple[nn.Module, ...]] = ContextVar("running", default=())  # watched modules, innermost last
_turns: ContextVar[tuple[Session, ...]] = ContextVar("turns", default=())  # whose model this context is running


class _Here(threading.local):
    """What a thread is at."""

    def __init__(self) -> None:
        self.attending = False  # computing a call
        self.capturing = False  # inside a watched module, so that its functions are looked at


_here = _Here()
_NOTHING = nullcontext()
watching = _sessions.holding
SWAPPED: Opened[object] = Opened("swapped")  # where Pellucid's operator is in the place of torch's, whoever watches


def sessions_of(module: nn.Module) -> list[Session]:
    """The runs that watch a module in this context, the innermost last."""
    return [session for session in _sessions.here() if session.modules.name_of(module)]


def keeps_own(module: nn.Module) -> bool:
    """Whether somebody watches a module that computes by torch's operator where nobody does."""
    return bool(sessions_of(module)) and not SWAPPED.here()


def read_beside(module: nn.Module) -> AbstractContextManager[object]:
    """What is entered where a module's call is read beside its own function: with a graph if readings carry gradients.

    Not in backward, where a call that is made again is only counted.
    """
    trained = any(session.gradients for session in sessions_of(module))
    return carried.kept_whole() if trained and not carried.in_backward() else torch.no_grad()


def left_to_torch(module: nn.Module, drops: bool, *tensors: Tensor) -> bool:
    """Whether a call of torch's own function is left to that, and read beside it by who watches.

    With dropout, and where a checkpoint may run it again: in backward nobody leads it to Pellucid, which would drop
    other weights and save other tensors. Of a module that is only watched, also inside of transforms.
    """
    return drops or carried.is_replayed() or (keeps_own(module) and any(map(is_transformed, tensors)))


def running_module() -> nn.Module | None:
    """The innermost watched module that is running in this context, or None where none is."""
    running = _running.get()
    return running[-1] if running else None


def called(module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a call of a module gives, with its attention led to those who watch it in this context.

    Args:
        module: what is called.
        forward: what its own class does when it is called; takes the module first.
        args: what it is called with.
        kwargs: the same, by name.

    """
    sessions = [] if _here.attending else sessions_of(module)
    if not sessions:
        return forward(module, *args, **kwargs)
    if packed_apart(module, args, kwargs):
        output = unseen(lambda: forward(module, *args, **kwargs))
        _called(sessions, module, forward, args, kwargs)
        return output
    return _called(sessions, module, forward, args, kwargs)


def _called(
    sessions: list[Session], module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
) -> Any:
    with _outermost(sessions):
        before = _running.get()
        for session in sessions:
            session.begin(module, args, kwargs, not any(session.modules.name_of(outer) for outer in before))
        _running.set((*before, module))
        try:
            return forward(module, *args, **kwargs)
        finally:
            _running.set(before)


def _outermost(sessions: list[Session]) -> AbstractContextManager[object]:
    """What is entered where a context begins to run a watched model, and a thread to be looked at."""
    turns = _turns.get()
    if _here.capturing and all(session in turns for session in sessions):
        return _NOTHING
    stack = ExitStack()
    try:
        for session in sessions:
            _take_turn(session, stack)
        if not _here.capturing:
            stack.enter_context(_capturing(sessions[-1]))
    except BaseException:
        stack.close()
        raise
    return stack


@contextmanager
def _capturing(session: Session) -> Iterator[None]:
    with session.capture():
        _here.capturing = True
        try:
            yield
        finally:
            _here.capturing = False


def _take_turn(session: Session, stack: ExitStack) -> None:
    """Let one context at a time run a session's model: two at once would continue each other's layers."""
    if session in _turns.get():
        return
    before = _turns.get()
    stack.enter_context(session.turn)
    _turns.set((*before, session))
    stack.callback(_turns.set, before)


@contextmanager
def generating(module: nn.Module, options: dict[str, Any]) -> Iterator[None]:
    """Let those who watch a module know that its `generate` runs, with these options."""
    with ExitStack() as stack:
        for session in sessions_of(module):
            _take_turn(session, stack)
            stack.enter_context(session.generation(options))
        yield


def attend(module: nn.Module, call: Call, observe: bool = False) -> Seen:
    """The output of a module's call, seen by every run that watches it.

    Args:
        module: what attends.
        call: what it asks for.
        observe: whether an observation is wanted though nobody watches.

    """
    return unseen(lambda: _seen(module, call, observe))


def beside(module: nn.Module, own: Callable[[], T], described: Callable[[], Call]) -> T:
    """What a module's own function gives, while those who watch it read the same call beside it.

    For what Pellucid's operator alone would change: the numbers that dropout draws, weights that the model goes on
    with. The call is read without gradient, unless that is asked for, and draws nothing.

    Args:
        module: what attends.
        own: the function.
        described: makes the call; what it raises as not understood is listed.

    """
    output, sessions = unseen(own), sessions_of(module)
    if sessions and not all(session.has_seen(module) for session in sessions):
        try:
            with read_beside(module):
                call = replace(described(), dropout_p=0.0)
                unseen(lambda: _read_members(module, call) if is_inside(call) else _seen(module, call, False))
        except (TypeError, ValueError, TraceError) as error:
            refuse(module, f"its call is not one that Pellucid computes: {error}")
    return output


def unseen(run: Callable[[], T]) -> T:
    """What a function gives, while nothing that it calls is looked at."""
    before = _here.attending
    _here.attending = True
    try:
        with lifted():
            return run()
    finally:
        _here.attending = before


def apart(run: Callable[..., T]) -> Callable[..., T]:
    """A function that is called while a model attends, such as a listener's, as it is where none does: it may watch."""

    def as_outside(*args: Any) -> T:
        before = _here.attending, _here.capturing
        _here.attending = _here.capturing = False
        try:
            return run(*args)
        finally:
            _here.attending, _here.capturing = before

    return as_outside


def is_attending() -> bool:
    """Whether this thread is inside `unseen`, where what is called is no attention of the model's, or seen already."""
    return _here.attending


def _seen(module: nn.Module, call: Call, observe: bool) -> Seen:
    if is_shared_here() and call.stretch is None:
        if observe:
            raise TypeError(
                "context_parallel: a module's weights lie on several ranks; call it without asking for them"
            )
        if call.start or call.k_start:
            raise ValueError("context_parallel: a filled cache cannot be gone on with; its keys are this rank's alone")
        problem = call.problem if call.rule is None else replace(call.problem, mask=call.rule.by_position)
        if not sessions_of(module):
            return Seen(output_of_all(problem), None)
        part = cut(problem, watched_of(module))
        return Seen(part.output(_seen(module, of_cut(part), False).output), None)
    sessions = sessions_of(module)
    if not sessions:
        return _observed(call) if observe else Seen(reading.run(call.problem).output, None)
    if is_inside(call):
        _read_members(module, call)
        return _observed(call) if observe else Seen(reading.run(call.problem).output, None)
    for session in sessions[:-1]:
        session.see(module, call)
    seen = sessions[-1].see(module, call)
    return _observed(call) if observe and seen.observation is None else seen


def _read_members(module: nn.Module, call: Call) -> None:
    """Let all that watch read a call inside a transform of torch.func; of vmap's members, each is one of its own."""
    if any(session.gradients for session in sessions_of(module)):
        refuse(module, "gradients: it runs inside a transform of torch.func, out of which readings carry none")
        return
    try:
        with temporarily_clear_interpreter_stack(), torch.no_grad():
            for member in members(replace(call, dropout_p=0.0)):
                _seen(module, member, False)
    except ValueError as error:
        refuse(module, str(error))


def watched_of(module: nn.Module) -> list[str]:
    """In words what those who watch a module read of its calls."""
    return [
        f"{name}: {session.record.readouts}" if session.observes(name) else name
        for session in sessions_of(module)
        for name in (session.modules.name_of(module),)
        if name
    ]


def name_of(module: nn.Module) -> str:
    """A module's name in the model watched last, else that of its class."""
    names = (session.modules.name_of(module) for session in reversed(sessions_of(module)))
    return next((name for name in names if name), type(module).__name__)


def refuse(module: nn.Module, reason: str) -> None:
    """Note that a module's call was not observed."""
    for session in sessions_of(module):
        session.refused[session.modules.name_of(module) or type(module).__name__] = reason


def was_refused(module: nn.Module) -> bool:
    """Whether a call of a module was not observed, so that nothing that it does instead is."""
    return any(name_of(module) in session.refused for session in sessions_of(module))


def _observed(call: Call) -> Seen:
    readouts = (LogSumExp(), Entropy(), MaxScore())
    output, readings = reading.read(call, readouts, call.start or 0, call.padded_queries)
    return Seen(output, observation(call, output, readings, readouts))

"""Who watches a module, and its calls of attention led there.

Whoever captures a call, of whichever library, hands it to `attend`; what belongs to no watched model is only computed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pellucid.readouts import Entropy, LogSumExp, MaxScore
from pellucid.watch import reading
from pellucid.watch.call import Call
from pellucid.watch.session import Seen, Session, observation

_active: dict[int, list[Session]] = {}
_sessions: list[Session] = []
_lock = threading.RLock()  # a signal's handler may come in the midst
_here = threading.local()  # attending: whether this thread is computing a call


@contextmanager
def watching(session: Session) -> Iterator[None]:
    """Let `session` see the calls of its model's modules."""
    own = [id(module) for module in session.modules.root.modules()]
    with _lock:
        _sessions.append(session)
        for module in own:
            _active[module] = [*_active.get(module, ()), session]
    try:
        yield
    finally:
        with _lock:
            _sessions.remove(session)
            for module in own:
                left = [other for other in _active[module] if other is not session]
                if left:
                    _active[module] = left
                else:
                    del _active[module]


def sessions_of(module: nn.Module) -> list[Session]:
    """The runs that watch a module, the innermost last."""
    return _active.get(id(module), [])


def running_module() -> nn.Module | None:
    """The innermost module that is running of the model watched last, or None where none is running."""
    return next((session.modules.running[-1] for session in reversed(_sessions) if session.modules.running), None)


def attend(module: nn.Module, call: Call, observe: bool = False) -> Seen:
    """The output of a module's call, seen by every run that watches it.

    Args:
        module: what attends.
        call: what it asks for.
        observe: whether an observation is wanted though nobody watches.

    """
    before = is_attending()  # a listener's own model may attend while this one does
    _here.attending = True
    try:
        return _seen(module, call, observe)
    finally:
        _here.attending = before


def is_attending() -> bool:
    """Whether this thread is inside `attend`, where what an engine calls is no attention of the model's."""
    return getattr(_here, "attending", False)


def _seen(module: nn.Module, call: Call, observe: bool) -> Seen:
    sessions = sessions_of(module)
    if not sessions:
        return _observed(call) if observe else Seen(reading.run(call.problem).output, None)
    for session in sessions[:-1]:
        session.see(module, call)
    seen = sessions[-1].see(module, call)
    return _observed(call) if observe and seen.observation is None else seen


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

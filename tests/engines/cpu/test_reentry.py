"""Whoever interrupts a call may attend itself, or end it: a signal's handler, the collector, Ctrl-C, at any line."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines, masks
from pellucid.engines import repeated
from pellucid.engines.cpu.call import plan
from pellucid.engines.cpu.kernels.linear_row import row_through
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine import threads
from tests.engines.cpu.forked import exit_code, forked

PACKAGE = str(Path(pellucid.__file__).parent)
WHERE = ("engines/cpu/", "repeated", "once", "functional")  # where calls are prepared


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


QUERY, KEY, VALUE = drawn(2, 3, 67, 16), drawn(2, 3, 131, 16, seed=1), drawn(2, 3, 131, 16, seed=2)
IDS = torch.arange(131) // 7
ROW, WEIGHT, BIAS = drawn(1, 131), drawn(67, 131, seed=1), drawn(67, seed=2)
READ = (pellucid.LogSumExp, pellucid.Entropy, pellucid.Received)


def observed() -> list[Tensor]:
    read = [*(readout() for readout in READ), pellucid.TopK(3), pellucid.Pooled(3, 5), pellucid.PooledMax(5, 3)]
    output, seen = pellucid.observe(QUERY, KEY, VALUE, readouts=read)
    return [output, seen.lse, seen.entropy, seen.received, *seen.topk, seen.pooled, seen.pooled_max]


def weights() -> list[Tensor]:
    _, seen = pellucid.observe(QUERY, KEY, VALUE, is_causal=True)
    return [seen.weights(), seen.weights(queries=[5, 2], keys=[7, 3, 11], heads=1)]


CALLS: dict[str, Callable[[], list[Tensor]]] = {
    "plain": lambda: [pellucid.attention(QUERY, KEY, VALUE)],
    "one tile": lambda: [pellucid.attention(QUERY[0, 0, :5], KEY[0, 0, :7], VALUE[0, 0, :7])],
    "decode": lambda: [pellucid.attention(QUERY[:, :, :1], KEY, VALUE)],
    "tabulated": lambda: [pellucid.attention(QUERY, KEY, VALUE, mask_mod=masks.documents(IDS))],
    "readouts": observed,
    "weights": weights,
    "a row": lambda: [row_through(ROW, WEIGHT, BIAS)],
}
OTHER = drawn(3, 1, 2, 71, 37, seed=3).unbind(0)


def other() -> None:
    """Another call, which needs more scratch memory than there is."""
    threads._local.__dict__.clear()
    pellucid.attention(*OTHER)


@pytest.fixture(autouse=True)
def engine() -> Iterator[None]:
    with engines.using("cpu"), torch.no_grad():
        other()
        yield


@contextmanager
def at_lines(act: Callable[[], None]) -> Iterator[None]:
    """Act before each line that prepares a call."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) or not name[len(PACKAGE) + 1 :].startswith(WHERE):
            return None
        if event == "line":
            sys.settrace(None)
            act()
            sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_plans", {})
    monkeypatch.setattr(repeated, "_known", {})


@pytest.mark.sampled
@pytest.mark.parametrize("name", CALLS)
def test_another_call_at_each_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, lines = CALLS[name], []

    def act() -> None:
        lines.append(1)
        if len(lines) < 200 or len(lines) % 17 == 0:
            other()

    wanted = call()
    for _ in range(2):  # by a plan that is known, then by a new one
        with at_lines(act):
            found = call()
        assert all(map(torch.equal, found, wanted))
        forget(monkeypatch)
    assert len(lines) > 20


@pytest.mark.parametrize("name", CALLS)
def test_the_scratch_memory_is_held(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, held = threads.run, []

    def run(address: int, context: int, items: int) -> None:
        buffer = getattr(threads._local, "buffer", None)
        if buffer is not None:
            seen = weakref.ref(buffer)
            del buffer
            threads._local.__dict__.clear()
            held.append(seen() is not None)
        usual(address, context, items)

    monkeypatch.setattr(threads, "run", run)
    wanted = CALLS[name]()
    assert all(map(torch.equal, CALLS[name](), wanted))
    assert name == "a row" or (held and all(held))


@pytest.mark.parametrize("name", ["plain", "decode", "tabulated", "a row"])
def test_an_interrupt_at_each_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, wanted = CALLS[name], CALLS[name]()
    for stop in (*range(1, 60), *range(60, 900, 61)):
        left = [stop]

        def act(left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        if stop % 2:
            forget(monkeypatch)
        try:
            with at_lines(act):
                call()
        except KeyboardInterrupt:
            pass
        assert all(map(torch.equal, call(), wanted))


@pytest.mark.parametrize("name", ["plain", "readouts", "weights"])
def test_without_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, wanted, usual = CALLS[name], CALLS[name](), torch.empty
    for number in range(4):
        left = [number]

        def empty(*args: Any, left: list[int] = left, **kwargs: Any) -> Tensor:
            left[0] -= 1
            if left[0] == -1:
                raise RuntimeError("out of memory")
            return usual(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", empty)
            threads._local.__dict__.clear()
            try:
                call()
            except RuntimeError as error:
                assert "out of memory" in str(error)  # noqa: PT017 - whether there are as many allocations is not ours
        assert all(map(torch.equal, call(), wanted))


def test_the_first_kernel_that_was_loaded_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address may be in use where a second load of it ends."""
    monkeypatch.setattr(compiler, "_loaded", {})
    usual, inner = compiler._load, []

    def load(*args: Any) -> compiler.Loaded:
        if not inner:
            inner.append(None)
            inner[0] = compiler.function(*args)
        return usual(*args)

    monkeypatch.setattr(compiler, "_load", load)
    forget(monkeypatch)
    pellucid.attention(QUERY, KEY, VALUE)
    assert inner[0] in compiler._loaded.values()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_signals_whose_handler_attends(monkeypatch: pytest.MonkeyPatch) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread")
    fired, wanted = [], {name: call() for name, call in CALLS.items()}

    inside = []

    def handle(number: int, frame: Any) -> None:
        fired.append(number)
        if len(inside) < 3:  # a slow machine is interrupted again before it is done
            inside.append(number)
            other()
            inside.pop()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
    try:
        while len(fired) < 200:
            forget(monkeypatch)
            for name, call in CALLS.items():
                assert all(map(torch.equal, call(), wanted[name]))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_in_the_midst() -> None:
    """The child goes on with the call that was interrupted, without its parent's threads."""
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    wanted = CALLS["plain"]()

    def work() -> bool:
        torch.set_num_threads(2)
        threads._pool.lost = threads._pool.used = False  # as before the fork

        def act() -> None:
            threads._pool.lost = threads._pool.lost or threads._pool.used

        with at_lines(act):
            return all(map(torch.equal, CALLS["plain"](), wanted))

    try:
        assert exit_code(forked(work), 20) == 0
    finally:
        torch.set_num_threads(usual)

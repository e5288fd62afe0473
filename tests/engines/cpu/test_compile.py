"""Compiled kernels in memory and on disk: nothing that happens to the cache, or to a compilation, does harm."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from llvmlite import ir

import pellucid
from pellucid import engines
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine import stored
from pellucid.engines.cpu.machine.builder import I64
from pellucid.engines.cpu.machine.target import describe, host
from tests.engines.cpu.forked import exit_code, forked


class Answer:
    """A kernel that returns a number, and how often it was written."""

    def __init__(self, number: int = 42) -> None:
        self.number, self.written = number, 0

    def emit(self, module: ir.Module) -> None:
        self.written += 1
        function = ir.Function(module, ir.FunctionType(I64, []), "answer")
        ir.IRBuilder(function.append_basic_block()).ret(I64(self.number))

    def found(self) -> int:
        """What the compiled function returns."""
        kernel = compiler.function("answer", f"a test's {self.number}", self.emit, host())
        return ctypes.CFUNCTYPE(ctypes.c_int64)(kernel.address)()


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in memory, as in a new process."""
    monkeypatch.setattr(compiler, "_loaded", {})


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which does not exist yet."""
    forget(monkeypatch)
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "some" / "cache"))
    return tmp_path / "some" / "cache"


def test_compiled_once_then_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer()
    assert [answer.found(), answer.found()] == [42, 42]
    (kernel,) = directory.iterdir()
    assert kernel.suffix == ".o"
    forget(monkeypatch)
    assert answer.found() == 42
    assert answer.written == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"",
        lambda good: good[:20],
        lambda good: good[:32],
        lambda good: good[:-1],
        lambda good: good + b"\0",
        lambda good: good[:200] + bytes([good[200] ^ 1]) + good[201:],
        lambda good: b"x" * len(good),
    ],
)
def test_a_damaged_file_is_compiled_again(
    damage: Callable[[bytes], bytes], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Answer()
    answer.found()
    (kernel,) = directory.iterdir()
    good = kernel.read_bytes()
    kernel.write_bytes(damage(good))
    forget(monkeypatch)
    assert answer.found() == 42
    assert answer.written == 2
    assert kernel.read_bytes() == good


def test_a_directory_in_the_place_of_a_kernel(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer()
    answer.found()
    (kernel,) = directory.iterdir()
    kernel.unlink()
    kernel.mkdir()
    forget(monkeypatch)
    assert answer.found() == 42
    assert list(directory.iterdir()) == [kernel]


@pytest.mark.parametrize("path", ["file", "file/cache", "closed", "closed/cache"])
def test_a_path_that_cannot_be_used(path: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir(parents=True)
    (directory / "file").write_text("not a directory")
    (directory / "closed").mkdir(mode=0o500)
    monkeypatch.setenv("PELLUCID_CACHE", str(directory / path))
    answer = Answer()
    assert answer.found() == 42
    assert (directory / "file").read_text() == "not a directory"
    if os.geteuid():  # root may write everywhere
        assert not list((directory / "closed").iterdir())


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here, which not even root may write to")
def test_a_directory_that_nobody_can_write_to(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", "/proc/self/task")
    assert Answer().found() == 42


def test_a_full_disk(directory: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        found = Answer().found()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found == 42
    assert not list(directory.iterdir())


def test_the_file_is_named_by_all_that_matters(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Symbol, description, processor and its features, sources, our version and llvmlite's."""
    own = host()

    def named(symbol: str = "answer", description: str = "one", target: Any = own) -> set[str]:
        forget(monkeypatch)
        compiler._sources.cache_clear()
        before = set(directory.iterdir()) if directory.exists() else set()
        emit = lambda module: ir.IRBuilder(  # noqa: E731
            ir.Function(module, ir.FunctionType(ir.VoidType(), []), symbol).append_basic_block()
        ).ret_void()
        compiler.function(symbol, description, emit, target)
        return {path.name for path in set(directory.iterdir()) - before}

    assert len(named()) == 1
    assert not named()
    assert named(symbol="other")
    assert named(description="two")
    assert named(target=describe(own.triple, "generic", ""))
    assert named(target=describe(own.triple, own.cpu, f"{own.features},-prefer-128-bit"))
    monkeypatch.setattr(compiler, "__version__", "0.0.0")
    assert named()
    monkeypatch.setattr("llvmlite.__version__", "0.0.0")
    assert named()
    monkeypatch.setattr(Path, "read_bytes", lambda path, read=Path.read_bytes: read(path) + b"# changed")
    assert named()
    monkeypatch.undo()
    compiler._sources.cache_clear()


STEPS = [
    "_sources", "stored.read", "_compiled", "_optimised", "object_code", "stored.write", "_jit", "Loaded", "os.replace",
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interruption_leaves_nothing_behind(
    step: str, when: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C before or after any step: no lock is held, no half a file lies about, and the next call works."""
    owner = {"os": os, "stored": stored}.get(step.split(".")[0], compiler)
    name = step.split(".")[-1]
    original = getattr(owner, name)

    def interrupted(*args: Any, **options: Any) -> Any:
        result = original(*args, **options) if when == "after" else None
        raise KeyboardInterrupt(result)  # which keeps the result alive, as a traceback would

    answer = Answer()
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            answer.found()
    assert gc.isenabled()
    assert not directory.exists() or not list(directory.glob(".new-*"))
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(answer.found()))
    thread.start()
    thread.join(60)
    assert elsewhere == [answer.found()] == [42]


def test_an_error_while_compiling_is_raised_and_forgotten(directory: Path) -> None:
    def wrong(module: ir.Module) -> None:
        raise ArithmeticError("nothing to compile")

    for _ in range(2):
        with pytest.raises(ArithmeticError):
            compiler.function("answer", "wrong", wrong, host())
    assert Answer().found() == 42


def test_two_threads_compile_one_kernel_once(directory: Path) -> None:
    answer, together, found = Answer(), threading.Barrier(8), []

    def call() -> None:
        together.wait()
        found.append(answer.found())

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [42] * 8
    assert answer.written == 1


def test_the_collector_stays_as_it_was(directory: Path) -> None:
    gc.disable()
    try:
        Answer().found()
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_ten_processes_with_an_empty_cache(directory: Path) -> None:
    """All begin at once, each with nothing in memory and nothing on disk, and none finds half a kernel."""
    x = torch.randn(2, 271, 24)  # no short head
    call = {"is_causal": True, "readouts": [pellucid.Entropy(), pellucid.TopK(3), pellucid.Received()]}
    with engines.using("reference"):
        exact, _ = pellucid.observe(x, x, x, **call)
    waiting, begin = os.pipe()

    def child() -> bool:
        os.close(begin)
        os.read(waiting, 1)  # until the parent has closed it
        with engines.using("cpu"):
            output, _ = pellucid.observe(x, x, x, **call)
        return torch.allclose(output, exact, atol=1e-5)

    children = [forked(child) for _ in range(10)]
    os.close(waiting)
    os.close(begin)
    assert [exit_code(number) for number in children] == [0] * 10
    names = sorted(path.name for path in directory.iterdir())
    assert [name.split("-")[0] for name in names] == ["columns", "forward"]


def test_a_kernel_takes_half_a_second_to_compile_and_thirty_milliseconds_to_load(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In time of the processor, for a busy machine may be slower; measured alone: 0.17 s and 0.001 s."""
    x = torch.randn(1, 2, 300, 64)

    def seconds() -> float:
        forget(monkeypatch)
        before = time.thread_time()
        with engines.using("cpu"):
            pellucid.observe(x, x, x, is_causal=True, readouts=[pellucid.Entropy(), pellucid.TopK(8)])
        return time.thread_time() - before

    attending = min(seconds() for _ in range(3))  # and reading the kernel
    for path in directory.iterdir():
        path.unlink()
    assert seconds() < 0.5
    assert attending < 0.03


def test_gradients_go_to_the_portable_engine() -> None:
    x = torch.randn(2, 5, 8, requires_grad=True)
    with engines.using("cpu"):
        (gradient,) = torch.autograd.grad(pellucid.attention(x, x, x).sum(), x)
    assert gradient.shape == x.shape


DECIDING = ("pellucid.engines.cpu", "pellucid.language", "pellucid.dropout")


def test_every_file_that_decides_what_is_emitted_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(pellucid.__file__).parent
    files = compiler.sources()
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(DECIDING)]
    imported = {Path(str(module.__file__)) for module in modules}
    assert imported <= set(files)
    copies = []
    for file in files:
        copy = tmp_path / file.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        copies.append(copy)
    monkeypatch.setattr(compiler, "sources", lambda: copies)
    keys = {compiler._sources.__wrapped__()}
    for copy in copies:
        text = copy.read_bytes()
        copy.write_bytes(text + b"#")
        keys.add(compiler._sources.__wrapped__())
        copy.write_bytes(text)
    assert len(keys) == len(copies) + 1

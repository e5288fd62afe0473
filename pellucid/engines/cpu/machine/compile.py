"""From a kernel's IR to a function in memory, with the machine code kept on disk (stored.py).

The file's name is a digest of all that the code depends on: this package's sources, the kernel's own description, the
processor, llvmlite and our version.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import llvmlite
from llvmlite import binding, ir

from pellucid._version import __version__
from pellucid.engines.cpu.machine import stored
from pellucid.engines.cpu.machine.target import Target, machine

MOST_LOADED = 512  # functions that are kept for whoever asks for them again
LOADS_A_JIT = 64  # LLVM's loader keeps 9 KB of each function that it ever loaded; one that has no functions is freed
Emit = Callable[[ir.Module], None]
_loaded: dict[tuple[str, str, Target], Loaded] = {}
_retired: list[Any] = []  # libraries of functions that are gone, unloaded by whoever compiles next
_lock = threading.RLock()  # held by whoever compiles, and unloads
_serial = itertools.count()  # LLVM wants a new name for everything it loads, also after a load that was interrupted

if hasattr(os, "register_at_fork"):  # never in the midst of LLVM's work: a child would wait for the lock for ever
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class Loaded:
    """A compiled function in memory: its address, valid as long as this lives."""

    def __init__(self, code: bytes, symbol: str) -> None:
        builder = binding.JITLibraryBuilder().add_object_img(code).add_current_process().export_symbol(symbol)
        number = next(_serial)
        jit = _jit(number // LOADS_A_JIT)
        library = builder.link(jit, f"{symbol}-{number}")
        self.address: int = library[symbol]
        self.used = number
        library.jit = jit  # which must outlive it
        self._library = library

    def __del__(self) -> None:
        if "_library" in self.__dict__:  # not interrupted
            _retired.append(self._library)


def function(symbol: str, description: str, emit: Emit, target: Target) -> Loaded:
    """The kernel that `emit` writes, compiled at most once; it must be kept by whoever keeps its address.

    Args:
        symbol: the name of the function in the module.
        description: everything that `emit`'s output depends on, beside the sources and the target.
        emit: writes the function into a module.
        target: the processor.

    """
    key = (symbol, description, target)
    loaded = _loaded.get(key)
    if loaded is None:
        with _lock:
            loaded = _loaded.get(key)
            if loaded is None:
                _forget_oldest()
                # The first to come stays: a handler that interrupts a load may load the same.
                loaded = _loaded.setdefault(key, _load(symbol, description, emit, target))
    loaded.used = next(_serial)
    return loaded


def assembly(module: ir.Module, target: Target) -> str:
    """The machine code of a module as text, for reading."""
    return machine(target).emit_assembly(_optimised(module, target))


def object_code(module: ir.Module, target: Target) -> bytes:
    """The machine code of a module, as an object file."""
    return machine(target).emit_object(_optimised(module, target))


def _forget_oldest() -> None:
    """Make room for one more, and unload what nobody keeps."""
    while len(_loaded) >= MOST_LOADED:
        # Of a copy, and gone or not: a handler may load in the midst.
        _loaded.pop(min(_loaded.copy().items(), key=lambda item: item[1].used)[0], None)
    while _retired:
        _retired.pop().close()


def _load(symbol: str, description: str, emit: Emit, target: Target) -> Loaded:
    digest = hashlib.sha256(repr((_sources(), description, symbol, target)).encode()).hexdigest()[:32]
    name = f"{symbol}-{digest}.o"
    kept = stored.read(name)
    if kept:
        with suppress(RuntimeError):  # LLVM makes nothing of it
            return Loaded(kept, symbol)
    code = _compiled(symbol, emit, target)
    stored.write(name, code)
    return Loaded(code, symbol)


def _compiled(symbol: str, emit: Emit, target: Target) -> bytes:
    module = ir.Module(symbol)
    module.triple = target.triple
    with _collector_paused():
        emit(module)
        return object_code(module, target)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Writing IR makes many objects and no garbage: looking for some among all of torch's would double the time."""
    enabled = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if enabled:
            gc.enable()


def _optimised(module: ir.Module, target: Target) -> binding.ModuleRef:
    # What LLVM learns of types and constants ends with the module, in a context of its own.
    parsed = binding.parse_assembly(str(module), context=binding.create_context())
    parsed.verify()
    # The IR has its final shape. LLVM's own pipeline would take four times as long, and make nothing faster.
    builder = binding.create_pass_builder(machine(target), binding.create_pipeline_tuning_options())
    passes = binding.create_new_function_pass_manager()
    passes.add_sroa_pass()
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    for function in parsed.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return parsed


@cache
def _sources() -> str:
    digest = hashlib.sha256(f"{__version__} {llvmlite.__version__}".encode())
    for path in sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def sources() -> list[Path]:
    """The files that decide what is emitted: this engine's, in all of its folders, the score language's, dropout's."""
    engine = Path(__file__).parents[1]
    package = engine.parents[1]
    folders = (engine, package / "language")
    return sorted([package / "dropout.py", *(path for folder in folders for path in folder.rglob("*.py"))])


@lru_cache(maxsize=1)
def _jit(generation: int) -> binding.LLJIT:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    # JITLink lays all of an object in one piece. The older way lays code and constants where there is room, which in a
    # process full of libraries may be farther apart than they can reach: LLVM then ends the process.
    return binding.create_lljit_compiler(use_jit_link=True)

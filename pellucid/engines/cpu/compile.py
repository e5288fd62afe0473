"""From a kernel's IR to a function in memory, with the machine code kept on disk.

The file's name is a digest of all that the code depends on: this package's sources, the kernel's own description, the
processor, llvmlite and our version. A file that cannot be read, written or trusted is as good as none, and so is a
directory.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import llvmlite
from llvmlite import binding, ir

from pellucid._version import __version__
from pellucid.engines.cpu.target import Target, machine

Emit = Callable[[ir.Module], None]
_loaded: dict[tuple[str, str, Target], Loaded] = {}
_lock = threading.RLock()  # held by whoever compiles
_serial = itertools.count()  # LLVM wants a new name for everything it loads, also after a load that was interrupted

if hasattr(os, "register_at_fork"):  # never in the midst of LLVM's work: a child would wait for the lock for ever
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class Loaded:
    """A compiled function in memory: its address, valid as long as this lives."""

    def __init__(self, code: bytes, symbol: str) -> None:
        library = binding.JITLibraryBuilder().add_object_img(code).add_current_process().export_symbol(symbol)
        self._library = library.link(_jit(), f"{symbol}-{next(_serial)}")
        self.address: int = self._library[symbol]


def function(symbol: str, description: str, emit: Emit, target: Target) -> int:
    """The address of the kernel that `emit` writes, compiled at most once.

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
                loaded = _loaded[key] = _load(symbol, description, emit, target)
    return loaded.address


def assembly(module: ir.Module, target: Target) -> str:
    """The machine code of a module as text, for reading."""
    return machine(target).emit_assembly(_optimised(module, target))


def object_code(module: ir.Module, target: Target) -> bytes:
    """The machine code of a module, as an object file."""
    return machine(target).emit_object(_optimised(module, target))


def cache_directory() -> Path | None:
    """Where compiled kernels are kept: $PELLUCID_CACHE, or `pellucid` in the user's cache directory, if any."""
    own, base = os.environ.get("PELLUCID_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    try:
        return (Path(base) if base else Path("~/.cache").expanduser()) / "pellucid"
    except RuntimeError:  # the user has no home
        return None


def _load(symbol: str, description: str, emit: Emit, target: Target) -> Loaded:
    digest = hashlib.sha256(repr((_sources(), description, symbol, target)).encode()).hexdigest()[:32]
    directory = cache_directory()
    path = directory and directory / f"{symbol}-{digest}.o"
    code = path and _read(path)
    if not code:
        code = _compiled(symbol, emit, target)
        if path:
            _write(path, code)
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
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _optimised(module: ir.Module, target: Target) -> binding.ModuleRef:
    parsed = binding.parse_assembly(str(module))
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
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _jit() -> binding.LLJIT:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.create_lljit_compiler()


def _read(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, code = content[:32], content[32:]
    return code if code and hashlib.sha256(code).digest() == checksum else None


def _write(path: Path, code: bytes) -> None:
    """Into a file of its own first: another process reads all of it or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    except OSError:
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise

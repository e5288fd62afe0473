"""Kernels compiled for 64-bit ARM, linked with a small driver and run by an emulator, under the engine as it is.

The engine's own code runs here; only `compile.function` and `threads.run` are exchanged. What torch allocates lies in a
file that the emulated process maps as well, so a kernel reads its inputs and writes its results in place.
"""

from __future__ import annotations

import ctypes
import inspect
import mmap
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from llvmlite import ir
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from pellucid.engines import repeated
from pellucid.engines.cpu.layout import SLOT
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine import threads
from pellucid.engines.cpu.machine.target import Target, describe

ARM = "aarch64-unknown-linux-gnu"
COMPILER = shutil.which("aarch64-linux-gnu-gcc")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")

DRIVER = """
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void kernel(int64_t begin, int64_t end, int64_t *arguments);

/* Arguments: the shared file, its size and its address in the other process, the file of the kernel's arguments. */
int main(int count, char **given) {
    int64_t size = atoll(given[2]), theirs = atoll(given[3]), arguments[4096];
    char *own = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, open(given[1], O_RDWR), 0);
    if (own == MAP_FAILED) return 2;
    int64_t read_bytes = read(open(given[4], O_RDONLY), arguments, sizeof arguments);
    for (int64_t i = 0; i < read_bytes / 8; i++)
        if (arguments[i] >= theirs && arguments[i] < theirs + size) arguments[i] += (int64_t)own - theirs;
    kernel(0, 1, arguments);
    return 0;
}
"""


class Shared(TorchDispatchMode):
    """Inside it, every tensor that torch makes lies in a file."""

    def __init__(self, path: Path, size: int = 1 << 26) -> None:
        super().__init__()
        self.path, self.size, self.used = path, size, 0
        with open(path, "wb+") as file:
            file.truncate(size)
            self.memory = mmap.mmap(file.fileno(), size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(Tensor, self._moved, function(*args, **(kwargs or {})))

    def _moved(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        inside = self.address <= storage.data_ptr() < self.address + self.size
        if inside or tensor.device.type != "cpu" or not storage.nbytes():
            return tensor
        whole = torch.frombuffer(self.memory, dtype=torch.uint8, count=storage.nbytes(), offset=self.used)
        self.used += -(-storage.nbytes() // 64) * 64
        whole.copy_(torch.empty(0, dtype=torch.uint8).set_(storage))
        return whole.view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


class Emulated:
    """Compiles, links and runs kernels; what is called an address here is a number of an executable."""

    def __init__(self, folder: Path, target: Target) -> None:
        self.folder, self.target = folder, target
        self.shared = Shared(folder / "memory")
        self.built: dict[tuple[str, str], int] = {}
        self.arguments: list[int] = []
        self.ran: list[str] = []
        (folder / "driver.c").write_text(DRIVER)
        self._compiler("-O1", "-c", "driver.c", "-o", "driver.o")

    def function(self, symbol: str, description: str, emit: Callable[[ir.Module], None], target: Target) -> Any:
        """In place of `compile.function`."""
        assert target == self.target
        number = self.built.setdefault((symbol, description), len(self.built))
        if number == len(self.arguments):
            written = inspect.getclosurevars(emit).nonlocals
            self.arguments.append(len(written["spec"].places) + SLOT * len(written["program"].slots))
            module = ir.Module(symbol)
            module.triple = target.triple
            emit(module)
            (self.folder / f"{number}.o").write_bytes(compiler.object_code(module, target))
            rename = f"-Wl,--defsym,kernel={symbol}"
            self._compiler("-static", "driver.o", f"{number}.o", rename, "-lm", "-o", f"{number}-{symbol}")
        return SimpleNamespace(address=number)

    def run(self, address: int, context: int, items: int) -> None:
        """In place of `threads.run`."""
        (program,) = self.folder.glob(f"{address}-*")
        content = ctypes.string_at(context, 8 * self.arguments[address])
        (self.folder / "arguments").write_bytes(content)
        place = [str(self.shared.path), str(self.shared.size), str(self.shared.address)]
        assert EMULATOR is not None
        subprocess.run([EMULATOR, str(program), *place, str(self.folder / "arguments")], check=True, timeout=60)
        self.ran.append(program.name.split("-")[1])

    def _compiler(self, *arguments: str) -> None:
        assert COMPILER is not None
        subprocess.run([COMPILER, *arguments], cwd=self.folder, check=True, timeout=60)


class Listed:
    """Compiles kernels to be read, and runs none: what the engine returns is not initialised."""

    def __init__(self) -> None:
        self.assembly: dict[str, str] = {}  # by the kernel's symbol

    def function(self, symbol: str, description: str, emit: Callable[[ir.Module], None], target: Target) -> Any:
        """In place of `compile.function`."""
        module = ir.Module(symbol)
        module.triple = target.triple
        emit(module)
        self.assembly[symbol] = compiler.assembly(module, target)
        return SimpleNamespace(address=0)

    def run(self, address: int, context: int, items: int) -> None:
        """In place of `threads.run`."""


@contextmanager
def emulated(folder: Path, cpu: str = "generic") -> Iterator[Emulated]:
    """Inside it, the engine's kernels run on an emulated ARM processor; tensors are to be made inside, too."""
    target = describe(ARM, cpu, "")
    machine = Emulated(folder, target)
    with exchanged(target, machine), machine.shared:
        yield machine


@contextmanager
def exchanged(target: Target, machine: Emulated | Listed) -> Iterator[None]:
    """Inside it, the engine compiles for the target, and calls the machine's functions."""
    with compiling_for(target), pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "function", machine.function)
        patch.setattr(threads, "run", machine.run)
        patch.setattr(threads, "_local", threading.local())
        yield


@contextmanager
def compiling_for(target: Target) -> Iterator[None]:
    """Inside it, the engine takes the target for the processor that it runs on."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("pellucid.engines.cpu"):
                if hasattr(module, "host"):
                    patch.setattr(module, "host", lambda: target)
                for known in ("_plans", "_prepared"):  # which are of the processor that this runs on
                    if hasattr(module, known):
                        patch.setattr(module, known, {})
        patch.setattr(repeated, "_known", {})  # which hold plans
        yield

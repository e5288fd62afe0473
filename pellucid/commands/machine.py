"""What a bug report should say of the machine: versions, processor, threads, engine, whether the numbers are right."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

import torch

from pellucid import engines
from pellucid._version import __version__
from pellucid.engines.cpu.machine import stored
from pellucid.functional import attention

PACKAGES = ("torch", "numpy", "rich", "safetensors", "matplotlib", "babel", "llvmlite")
OPTIONAL = ("transformers", "tokenizers", "pyarrow", "starlette", "uvicorn", "anywidget")  # told where installed
ABSENT = "not installed"
VARIABLES = ("PELLUCID_ENGINE", "PELLUCID_CPU", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")

# What kernels differ by: the names of Linux, then those of LLVM where Linux spells them otherwise.
X86_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
ARM_FEATURES = ("asimd", "neon", "asimddp", "fphp", "bf16", "i8mm", "sve", "sve2", "sme")


def report() -> dict[str, str]:
    """One line each, by name, in the order to print."""
    return dict(_lines())


def _lines() -> Iterator[tuple[str, str]]:
    yield "pellucid", __version__
    yield "python", f"{platform.python_version()} ({platform.python_implementation()}, {platform.architecture()[0]})"
    yield "system", platform.platform()
    for package in PACKAGES:
        yield package, _version(package)
    for package in OPTIONAL:
        if (version := _version(package)) != ABSENT:
            yield package, version
    yield "accelerator", _accelerator()
    yield "processor", f"{_processor()} ({platform.machine()})"
    yield "features", _features()
    yield "torch kernels", torch.backends.cpu.get_cpu_capability()
    yield "cores", f"{os.cpu_count()}, of which {_usable_cores()} usable by this process"
    yield "threads", f"{torch.get_num_threads()} in an operation, {torch.get_num_interop_threads()} between operations"
    yield "environment", " ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ) or "-"
    yield "engines", ", ".join(engines.ENGINES)
    yield "engine on cpu", _engine()
    yield "kernels kept", stored.state()
    yield "with dropout", _engine(dropout_p=0.1)  # what pellucid.engines.why tells of it
    yield "self check", _self_check()


def _version(package: str) -> str:
    if package == "torch":
        return str(torch.__version__)  # with its build, "2.13.0+cpu"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ABSENT


def _accelerator() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    return "mps" if torch.backends.mps.is_available() else "none"


def _processor() -> str:
    name = _cpu_info().get("model name") or platform.processor() or "unknown"
    llvm = _llvm()
    return name if llvm is None else f"{name}, {llvm.get_host_cpu_name()} to LLVM"


def _features() -> str:
    info = _cpu_info()
    present = (info.get("flags") or info.get("Features") or _llvm_features()).split()
    if not present:
        return "unknown"
    return " ".join(name for name in X86_FEATURES + ARM_FEATURES if name in present) or "none of those that matter"


def _cpu_info() -> dict[str, str]:
    """The first processor of Linux's /proc/cpuinfo; nothing on other systems."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _llvm_features() -> str:
    """What LLVM says of the processor, in Linux's spelling, where llvmlite is installed."""
    llvm = _llvm()
    if llvm is None:
        return ""
    spelling = {
        "avx512bf16": "avx512_bf16",
        "avx512fp16": "avx512_fp16",
        "amx-tile": "amx_tile",
        "amx-bf16": "amx_bf16",
    }
    present = (name for name, there in llvm.get_host_cpu_features().items() if there)
    return " ".join(spelling.get(name, name) for name in present)


def _llvm() -> ModuleType | None:
    """LLVM, where llvmlite is installed."""
    try:
        return import_module("llvmlite.binding")
    except ImportError:
        return None


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _engine(dropout_p: float = 0.0) -> str:
    tokens = torch.rand(1, 2, 3, device="cpu")
    try:
        return str(engines.why(tokens, tokens, tokens, dropout_p=dropout_p))
    except ValueError as error:
        return str(error)


def _self_check() -> str:
    """The largest difference between a causal call in float32 and the reference in float64, of numbers near 1."""
    query, key, value = torch.randn(3, 2, 3, 67, 16, generator=torch.Generator().manual_seed(0), device="cpu").unbind(0)
    try:
        with engines.using("reference"):
            expected = attention(query.double(), key.double(), value.double(), is_causal=True)
        difference = float((attention(query, key, value, is_causal=True) - expected).abs().max())
    except Exception as error:  # whatever is broken here is what the bug report is about
        return f"FAILED: {type(error).__name__}: {error}"
    return f"{'ok' if difference < 1e-5 else 'WRONG'}: at most {difference:.1e} from the reference in float64"

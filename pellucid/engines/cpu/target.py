"""The processor that kernels are compiled for: its vector width, its registers, and LLVM's description of it.

PELLUCID_CPU names a lesser processor ("haswell" for AVX2, "x86-64" for SSE2), as LLVM calls it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from llvmlite import binding


@dataclass(frozen=True)
class Target:
    """What a kernel must know of the processor."""

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int  # vector registers
    half: bool = True  # converts float16 itself
    bf16_dot: bool = False  # multiplies pairs of bfloat16

    def lanes(self, element_bytes: int = 4) -> int:
        """Lanes of one vector register."""
        return self.vector_bytes // element_bytes

    @property
    def tile_vectors(self) -> int:
        """Vector registers side by side in a register tile."""
        return 4 if self.registers >= 32 else 2

    def tile_rows(self, vectors: int) -> int:
        """Rows of a register tile of that many vectors: its accumulators leave room for the operands."""
        accumulators = {32: 24, 16: 12}[self.registers]
        return accumulators // vectors


@cache
def host() -> Target:
    """The processor this runs on, or the one PELLUCID_CPU names. Raises ValueError for a name LLVM does not know."""
    _initialise()
    triple = binding.get_process_triple()
    name = os.environ.get("PELLUCID_CPU")
    if name:
        return describe(triple, name, "")
    return describe(triple, binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())


def describe(triple: str, cpu: str, features: str) -> Target:
    """The target that LLVM knows by these names."""
    if triple.startswith(("aarch64", "arm64")):
        return Target(triple, cpu, features, vector_bytes=16, registers=32)
    has = _known_features(triple, cpu, features)
    if "avx512f" in has:
        # LLVM prefers 256-bit vectors on most processors that have 512: the kernels ask for what they mean.
        return Target(triple, cpu, f"{features},-prefer-256-bit".lstrip(","), 64, 32, bf16_dot="avx512bf16" in has)
    if "avx2" in has and "fma" in has:
        return Target(triple, cpu, features, 32, 16)
    return Target(triple, cpu, features, 16, 16, half="f16c" in has)


def machine(target: Target) -> binding.TargetMachine:
    """LLVM's code generator for the target."""
    _initialise()
    return binding.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, reloc="pic", codemodel="small"
    )


def _known_features(triple: str, cpu: str, features: str) -> set[str]:
    if features:
        return {name[1:] for name in features.split(",") if name.startswith("+")}
    if cpu not in LESSER:
        raise ValueError(f"PELLUCID_CPU: {cpu!r} is not known; known are {', '.join(LESSER)}")
    return LESSER[cpu]


LESSER = {
    "x86-64": set(),
    "x86-64-v2": set(),
    "nehalem": set(),
    "haswell": {"avx2", "fma"},
    "x86-64-v3": {"avx2", "fma"},
    "znver3": {"avx2", "fma"},
    "skylake-avx512": {"avx2", "fma", "avx512f"},
    "x86-64-v4": {"avx2", "fma", "avx512f"},
    "znver4": {"avx2", "fma", "avx512f", "avx512bf16"},
    "sapphirerapids": {"avx2", "fma", "avx512f", "avx512bf16"},
}


@cache
def _initialise() -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()

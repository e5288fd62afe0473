"""The processor that kernels are compiled for: its vector width, its registers, and LLVM's description of it.

What a processor can do is what LLVM writes for it, read off a few lines that are compiled for nothing else. So any
processor that LLVM knows can be named, and PELLUCID_CPU names a lesser one than the machine's own ("haswell" for AVX2,
"x86-64" for SSE2), as LLVM calls it.
"""

from __future__ import annotations

import ctypes
import difflib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from llvmlite import binding

# Processors whose dot product of bfloat16 pairs does half of the multiply-adds' operations: their strength is tiles.
SLOW_DOT = ("sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d")


@dataclass(frozen=True)
class Requests:
    """What asks best for memory that decode reads soon."""

    cache: int = 2  # where it is brought to
    ahead: int = 8192  # bytes from what is read to what is asked for


# On Zen 5 requests into the second cache are as good as none. On Zen 4 those into the first make decode 0.8 times as
# fast, and half the distance 0.95 times.
REQUESTS = {"znver4": Requests(ahead=16384), "znver5": Requests(cache=1)}


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
    bf16_tiles: bool = False  # multiplies matrix tiles of them

    @property
    def scaling(self) -> bool:
        """Whether it splits numbers, and scales them by powers of two, in one instruction."""
        return self.vector_bytes == 64

    def lanes(self, element_bytes: int = 4) -> int:
        """Lanes of one vector register."""
        return self.vector_bytes // element_bytes

    @property
    def dot_pays(self) -> bool:
        """Whether pairs of bfloat16 are multiplied faster than the float32 that they can be made into."""
        return self.bf16_dot and self.cpu not in SLOW_DOT

    @property
    def dot_pays_in_decode(self) -> bool:
        """Whether they are in decode as well: on Zen 5 they are 1.4 times as fast from its caches, 0.85 from memory."""
        return self.dot_pays and self.cpu != "znver5"

    @property
    def requests(self) -> Requests:
        """How memory is asked for before it is read."""
        return REQUESTS.get(self.cpu, Requests())

    @property
    def tile_vectors(self) -> int:
        """Vector registers side by side in a register tile."""
        return 4 if self.registers >= 32 else 2

    def tile_rows(self, vectors: int) -> int:
        """Rows of a register tile of that many vectors: its accumulators leave room for the operands.

        With many registers not all are used: rows in powers of two fit what there are of them, and lose no time.
        """
        return {1: 16, 2: 8, 3: 4, 4: 4}[vectors] if self.registers >= 32 else 12 // vectors


@cache
def host() -> Target:
    """The processor this runs on, or the lesser one that PELLUCID_CPU names.

    Raises:
        ValueError: PELLUCID_CPU names a processor that LLVM does not know, or that can do what this one cannot.

    """
    _initialise()
    own = describe(binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    name = os.environ.get("PELLUCID_CPU")
    return lesser(own, name) if name else own


def describe(triple: str, cpu: str, features: str) -> Target:
    """The target that LLVM knows by these names."""
    features = _wide(triple, features)
    can = abilities(triple, cpu, features)
    if "NEON" in can:
        return Target(triple, cpu, features, vector_bytes=16, registers=32)
    half = "F16C" in can
    if {"AVX-512", "AVX512-DQ"} <= can:
        tiles = {"+amx-tile", "+amx-bf16"} <= set(features.split(",")) and _tiles_permitted()
        return Target(triple, cpu, features, 64, 32, half, bf16_dot="AVX512-BF16" in can, bf16_tiles=tiles)
    if {"AVX2", "FMA"} <= can:
        return Target(triple, cpu, features, 32, 16, half)
    return Target(triple, cpu, features, 16, 16, half)


def lesser(own: Target, name: str) -> Target:
    """The named processor, as far as `own` can run its code: no instruction is used that `own` does not have.

    Raises:
        ValueError: LLVM knows no processor of that name, or what kernels ask of it is beyond `own`.

    """
    _check_known(own.triple, name)
    withheld = ",".join(feature for feature in own.features.split(",") if feature.startswith("-"))
    beyond = abilities(own.triple, name, "") - abilities(own.triple, own.cpu, own.features)
    if beyond:
        raise ValueError(
            f"PELLUCID_CPU: a processor no greater than this one ({own.cpu}) is needed, got {name!r}, which also has "
            f"{', '.join(sorted(beyond))}; name a lesser one, or unset PELLUCID_CPU"
        )
    return describe(own.triple, name, withheld)


def machine(target: Target) -> binding.TargetMachine:
    """LLVM's code generator for the target."""
    _initialise()
    return binding.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, reloc="pic", codemodel="small"
    )


# A little of everything that kernels ask of a processor.
PROBE = """
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)

define void @probe(ptr %p, ptr %q, ptr %r, ptr %s, <16 x float> %x, <8 x i32> %i, <2 x i64> %l, <8 x half> %h) {
    %product = call <16 x float> @llvm.fma.v16f32(<16 x float> %x, <16 x float> %x, <16 x float> %x)
    store <16 x float> %product, ptr %p
    %halves = fptrunc <16 x float> %x to <16 x half>
    store <16 x half> %halves, ptr %q
    %brains = fptrunc <16 x float> %x to <16 x bfloat>
    store <16 x bfloat> %brains, ptr %r
    %sum = add <8 x i32> %i, %i
    store <8 x i32> %sum, ptr %s
    %square = mul <2 x i64> %l, %l
    store volatile <2 x i64> %square, ptr %p
    %twice = fadd <8 x half> %h, %h
    store volatile <8 x half> %twice, ptr %q
    %task = atomicrmw add ptr %r, i64 1 monotonic
    store volatile i64 %task, ptr %s
    ret void
}
"""
# What LLVM writes where a processor has each.
SIGNS = {
    "x86_64": {
        "AVX": r"\bv\w+\s[^\n]*%[xyz]mm",
        "FMA": r"\bvfn?madd",
        "AVX2": r"\bvp\w+\s[^\n]*%ymm",
        "F16C": r"\bvcvtps2phx?\b",
        "AVX-512": r"%zmm",
        "AVX512-DQ": r"\bvpmullq\b",
        "AVX512-BF16": r"\bvcvtne2?ps2bf16\s[^\n]*%zmm",
        "AVX512-FP16": r"\bvaddph\b",
    },
    "aarch64": {
        "NEON": r"\bv0\.4s",
        "LSE": r"\bldadd\b",
        "FP16": r"\bfadd\s+v\d+\.8h",
        "BF16": r"\bbfcvtn",
        "SVE": r"\bz\d+\.[bhsd]",
    },
}


@cache
def abilities(triple: str, cpu: str, features: str) -> frozenset[str]:
    """What the processor can do of all that kernels make use of, by the names in SIGNS."""
    _initialise()
    module = binding.parse_assembly(PROBE)
    module.triple = triple
    writer = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, features=_wide(triple, features))
    written = writer.emit_assembly(module)
    return frozenset(name for name, sign in SIGNS[_family(triple)].items() if re.search(sign, written))


def _check_known(triple: str, name: str) -> None:
    """Raise ValueError unless LLVM can write code for the processor: it complains to nobody but standard error.

    So a process of its own is asked, which takes a tenth of a second.
    """
    complaint = _asked(triple, name)
    if "not a recognized processor" in complaint:
        known = re.findall(r"^\s*(\S+)\s+- Select the \S+ processor", _asked(triple, "help"), re.MULTILINE)
        close = difflib.get_close_matches(name, known, n=4) or known[:4]
        raise ValueError(
            f"PELLUCID_CPU: a processor that LLVM knows is needed, such as {' or '.join(close)}; got {name!r}"
        )
    if "LLVM ERROR" in complaint:
        raise ValueError(f"PELLUCID_CPU: a 64-bit processor is needed, got {name!r}")


def _asked(triple: str, name: str) -> str:
    """What LLVM prints when it compiles for a processor of that name; "help" prints all that it knows."""
    script = (
        "from llvmlite import binding; binding.initialize_all_targets(); binding.initialize_all_asmprinters(); "
        f"target = binding.Target.from_triple({triple!r}).create_target_machine(cpu={name!r}); "
        "target.emit_assembly(binding.parse_assembly('define void @f() { ret void }'))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stderr


# Linux lets a process use the state of matrix tiles only once it has asked for it.
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18


@cache
def _tiles_permitted() -> bool:
    """Whether the operating system lets this process use matrix tiles; asks for it."""
    if not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0


def _family(triple: str) -> str:
    return "x86_64" if triple.startswith("x86_64") else "aarch64"


def _wide(triple: str, features: str) -> str:
    """LLVM prefers 256-bit vectors on most processors that have 512: the kernels ask for what they mean."""
    wanted = "-prefer-256-bit"
    return features if _family(triple) != "x86_64" or wanted in features else f"{features},{wanted}".lstrip(",")


@cache
def _initialise() -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()

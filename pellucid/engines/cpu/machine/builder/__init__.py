"""A thin builder over llvmlite: values with operators, loops with carried values. Kernels read like algorithms.

Nothing here knows about attention. A Value is a scalar or a vector of one machine type; a Python number beside it takes
its type, and a scalar beside a vector is spread over its lanes. Integers are signed.
"""

from pellucid.engines.cpu.machine.builder.code import Code, Variable
from pellucid.engines.cpu.machine.builder.types import (
    BF16,
    F16,
    F32,
    F64,
    I1,
    I8,
    I16,
    I32,
    I64,
    POINTER,
    bytes_of,
    element_of,
    is_float,
    lanes_of,
    vector,
)
from pellucid.engines.cpu.machine.builder.value import Value

__all__ = [
    "BF16",
    "F16",
    "F32",
    "F64",
    "I1",
    "I8",
    "I16",
    "I32",
    "I64",
    "POINTER",
    "Code",
    "Value",
    "Variable",
    "bytes_of",
    "element_of",
    "is_float",
    "lanes_of",
    "vector",
]

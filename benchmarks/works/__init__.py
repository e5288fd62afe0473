"""All that is measured, by group, in the order of the table. Descriptions only: tensors are made when a race is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks.work import Work
from benchmarks.works.decode import decode
from benchmarks.works.dims import dims
from benchmarks.works.distributed import distributed
from benchmarks.works.masks import masks
from benchmarks.works.memory import long, memory
from benchmarks.works.observing import observing
from benchmarks.works.overhead import overhead
from benchmarks.works.plain import bfloat16, float16, float32, float64
from benchmarks.works.profiles import profiles
from benchmarks.works.scores import scores
from benchmarks.works.sparse import sparse
from benchmarks.works.training import training
from benchmarks.works.unusual import unusual

GROUPS: dict[str, Callable[[], Iterable[Work]]] = {
    function.__name__: function
    for function in (
        float32,
        bfloat16,
        float16,
        float64,
        dims,
        unusual,
        decode,
        masks,
        sparse,
        scores,
        observing,
        long,
        memory,
        overhead,
        training,
        distributed,
        profiles,
    )
}

"""The functions of rows by torch's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pellucid.language.rows.lookups import bucketize, embedding, gather, index_select, isin, searchsorted, take
from pellucid.language.rows.norms import (
    cosine_similarity,
    dist,
    linalg_norm,
    norm,
    normalize,
    pairwise_distance,
    vector_norm,
)
from pellucid.language.rows.products import einsum, matmul, vecdot
from pellucid.language.rows.reductions import REDUCTIONS
from pellucid.language.rows.shapes import (
    cat,
    flatten,
    permute,
    reshape,
    squeeze,
    stack,
    transpose,
    transposed,
    unbind,
    unsqueeze,
)

OF_ROWS: dict[str, Callable[..., Any]] = {
    **REDUCTIONS,
    "norm": norm,
    "linalg_vector_norm": vector_norm,
    "linalg_norm": linalg_norm,
    **{f.__name__: f for f in (dist, normalize, cosine_similarity, pairwise_distance, einsum, matmul)},
    **dict.fromkeys(("__matmul__", "dot", "vdot", "inner", "mv", "mm", "linalg_matmul"), matmul),
    "__rmatmul__": lambda a, b: matmul(b, a),
    "outer": lambda input, vec2: einsum("i,j->ij", input, vec2),
    "linalg_vecdot": vecdot,
    **{f.__name__: f for f in (isin, bucketize, searchsorted, take, gather, index_select, embedding)},
    **dict.fromkeys(("cat", "concat", "concatenate", "hstack"), cat),
    **{f.__name__: f for f in (stack, unsqueeze, squeeze, permute, transpose, unbind, flatten)},
    **dict.fromkeys(("reshape", "view"), reshape),
    "t": transposed,
}

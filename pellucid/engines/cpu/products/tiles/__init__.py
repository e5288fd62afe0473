"""Register-tiled products: the two matrix products of attention, and the packing of what they read."""

from pellucid.engines.cpu.products.tiles.products import (
    Beside,
    Products,
    across_rows,
    columns,
    descending,
    first_lanes,
    float_to_bfloat16,
    in_steps,
    joined,
    load_numbers,
    load_transposed,
    pack_rows,
    rounded,
    store_numbers,
    transposed,
    zero_rows,
)

__all__ = [
    "Beside",
    "Products",
    "across_rows",
    "columns",
    "descending",
    "first_lanes",
    "float_to_bfloat16",
    "in_steps",
    "joined",
    "load_numbers",
    "load_transposed",
    "pack_rows",
    "rounded",
    "store_numbers",
    "transposed",
    "zero_rows",
]

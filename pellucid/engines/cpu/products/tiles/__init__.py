"""Register-tiled products: the two matrix products of attention, and the packing of what they read."""

from pellucid.engines.cpu.products.tiles.exchanges import across_rows, descending, joined, load_transposed, transposed
from pellucid.engines.cpu.products.tiles.numbers import float_to_bfloat16, load_numbers, store_numbers
from pellucid.engines.cpu.products.tiles.products import Beside, Products
from pellucid.engines.cpu.products.tiles.rows import columns, first_lanes, in_steps, pack_rows, rounded, zero_rows

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

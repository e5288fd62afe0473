"""Maps too large to compute while somebody waits: pooled once, in stripes, and kept in ever coarser levels."""

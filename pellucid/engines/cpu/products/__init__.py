"""Matrix products of a kernel: register tiles, pairs of bfloat16, matrix tiles, split numbers, read in place."""

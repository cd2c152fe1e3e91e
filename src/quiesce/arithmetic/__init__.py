"""Numbers in, numbers out: grids, rounding, ranges, and the passes over weights. No modules, no state."""

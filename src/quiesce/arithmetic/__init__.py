"""Pure tensor functions: grids, rounding, ranges, and passes over weights."""

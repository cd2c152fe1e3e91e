"""A layer of a file as numbers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class FileLayer:
    """y = (integers * steps) x + bias, in the shape of the trained weight."""

    name: str
    """Name in the file."""
    integers: np.ndarray
    """float64, integers; or values of a float weight, with steps of 1."""
    steps: np.ndarray
    """float64, floats per integer, in the shape of `integers`."""
    bias: np.ndarray
    """float64 (channels,)."""

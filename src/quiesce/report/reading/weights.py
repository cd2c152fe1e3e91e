"""Reads the recorded trajectories of single weights."""

from pathlib import Path

import numpy as np

from quiesce.files.untrusted.npz_arrays import read_arrays
from quiesce.report.run_data import Trajectories
from quiesce.run_folder.reading import reading

LARGEST_POSITION = 1e30
"""Largest latent weight, in codes; well within the range of a chart's float32."""

LARGEST_CODE = 255
"""Largest code: 8 bits, unsigned."""


def trajectories(path: Path) -> Trajectories | None:
    """Return trajectories.npz, with latent weights in codes; None if it is missing or empty."""
    if not path.exists():
        return None
    with reading(path):
        arrays = read_arrays(path)
        steps, index, code, low, high = (
            arrays[name].astype(np.int64, casting="same_kind")
            for name in ("steps", "index", "code", "quant_min", "quant_max")
        )
        latent, frequency, scale = (
            arrays[name].astype(float, casting="same_kind")
            for name in ("latent", "frequency", "scale")
        )
        shape = (len(steps), len(index))
        if {latent.shape, code.shape, frequency.shape} != {shape} or len(scale) != len(steps):
            raise ValueError(f"its arrays are not all of {shape[0]} steps and {shape[1]} weights")
        if not all(shape):
            return None
        if not -LARGEST_CODE <= low.item() < high.item() <= LARGEST_CODE:
            raise ValueError(f"{low} to {high} is not a grid of at most 8 bits")
        with np.errstate(all="ignore"):
            position = latent / scale.reshape(len(scale), -1)
        if not (np.abs(position) < LARGEST_POSITION).all():
            raise ValueError("`latent` divided by `scale` is not finite, or too large to be drawn")
        return Trajectories(
            layer=str(arrays["layer"]),
            steps=steps,
            index=index,
            position=position,
            code=code,
            frequency=frequency,
            quant_min=low.item(),
            quant_max=high.item(),
        )

"""Reads single weights of a run: their trajectories, and the result of a probe of their codes."""

from pathlib import Path

import numpy as np

from quiesce.files.untrusted.typed_trees import typed
from quiesce.report.reading.files import read_arrays
from quiesce.report.run_data import Probe, Trajectories
from quiesce.run_folder.contents import ProbeFile
from quiesce.run_folder.reading import maybe_read, reading

LARGEST_POSITION = 1e30
"""Largest latent weight, in codes; well within the range of a chart's float32."""

LARGEST_CODE = 255
"""Largest code: 8 bits, unsigned."""


def trajectories(path: Path) -> Trajectories | None:
    """Return trajectories.npz, with latent weights in codes; None if there is no such file.

    Raises:
        RecipeError: The file is damaged.
    """
    arrays = read_arrays(path)
    if arrays is None:
        return None
    with reading(path):
        shape = (len(arrays["steps"]), len(arrays["index"]))
        for name in ("steps", "index", "code"):
            if arrays[name].dtype.kind not in "iu":
                raise ValueError(f"`{name}` are no whole numbers")
        for name in ("latent", "code", "frequency"):
            if arrays[name].shape != shape or arrays[name].dtype.kind not in "fiu":
                raise ValueError(f"`{name}` is not of {shape[0]} steps and {shape[1]} weights")
        low, high = (typed(arrays[name].item(), int) for name in ("quant_min", "quant_max"))
        if not -LARGEST_CODE <= low < high <= LARGEST_CODE:
            raise ValueError(f"{low} to {high} are no ends of a grid of 8 bits or fewer")
        scale, latent = arrays["scale"], arrays["latent"]
        if scale.shape not in (shape, shape[:1]) or not (np.isfinite(scale) & (scale > 0)).all():
            raise ValueError("`scale` is not above 0 for each step")
        with np.errstate(over="ignore"):
            position = latent / (scale if scale.ndim == latent.ndim else scale[:, None])
        if not (np.abs(position) < LARGEST_POSITION).all():
            raise ValueError("`latent` is not finite, or too far off to be drawn")
        found = Trajectories(
            layer=str(arrays["layer"]),
            steps=arrays["steps"],
            index=arrays["index"],
            position=position,
            code=arrays["code"].astype(int),
            frequency=arrays["frequency"],
            quant_min=low,
            quant_max=high,
        )
    return found if all(shape) else None


def probe(path: Path) -> Probe | None:
    """Return probe.json; None if there is no such file, or no weight oscillates.

    Raises:
        RecipeError: The file is damaged, or newer than this quiesce.
    """
    file = maybe_read(path, ProbeFile)
    if file is None or file.before is None or file.sampled is None:
        return None
    return Probe(
        weights=file.weights,
        samples=file.samples,
        before=(file.before.loss, file.before.top1_percent),
        drawn=np.array(file.sampled.each, float).reshape(-1, 2),
        learned=file.learned and (file.learned.loss, file.learned.top1_percent),
        changed=file.learned and file.learned.changed,
    )

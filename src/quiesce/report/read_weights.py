"""Single weights of a run: their trajectories, and what a probe found out about their codes."""

from pathlib import Path

import numpy as np

from quiesce.report.files import read_arrays, read_json, reading
from quiesce.report.runs import Probe, Trajectories


def trajectories(path: Path) -> Trajectories | None:
    """Return trajectories.npz, its latents in codes; None where there is no such file.

    Raises:
        RecipeError: The file is damaged.
    """
    arrays = read_arrays(path)
    if arrays is None:
        return None
    with reading(path):
        scale, latent = arrays["scale"], arrays["latent"]
        shape = (len(arrays["steps"]), len(arrays["index"]))
        found = Trajectories(
            layer=str(arrays["layer"]),
            steps=arrays["steps"],
            index=arrays["index"],
            position=latent / (scale if scale.ndim == latent.ndim else scale[:, None]),
            code=arrays["code"].astype(int),
            frequency=arrays["frequency"],
        )
        if any(each.shape != shape for each in (found.position, found.code, found.frequency)):
            raise ValueError(f"its arrays are not all of {shape[0]} steps and {shape[1]} weights")
    return found if all(shape) else None


def probe(path: Path) -> Probe | None:
    """Return probe.json; None where there is no such file.

    Raises:
        RecipeError: The file is damaged, or newer than this quiesce.
    """
    tree = read_json(path)
    if tree is None:
        return None
    with reading(path):
        if not tree["weights"]:
            return None  # nothing oscillates, and so nothing was tried
        learned = tree.get("learned")
        return Probe(
            weights=int(tree["weights"]),
            samples=int(tree["samples"]),
            before=_loss_and_top1(tree["before"]),
            drawn=np.array(tree["sampled"]["each"], float).reshape(-1, 2),
            learned=_loss_and_top1(learned) if learned else None,
            changed=learned.get("changed") if learned else None,
        )


def _loss_and_top1(tree: dict[str, float]) -> tuple[float, float]:
    return float(tree["loss"]), float(tree["top1_percent"])

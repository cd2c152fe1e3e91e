"""The file that quiesce adds to a Trainer checkpoint: the state of tracker, cures and watch."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from quiesce.arithmetic.checksum import checksum
from quiesce.cures.control import Control
from quiesce.errors import TrackingError
from quiesce.files.atomic import write_beside
from quiesce.files.weight_files import unpickled
from quiesce.health.watching import Watch
from quiesce.parallel.split_weights import whole

NAME = "quiesce.pt"
"""File name in the folder of the checkpoint."""


def content(control: Control, watch: Watch) -> dict[str, Any]:
    """Return the content of the file. All processes must call this."""
    return {
        "version": 1,
        "control": whole(control.state_dict()),
        "watch": watch.state_dict(),
        "weights": _fingerprint(control),
    }


def write(content: dict[str, Any], folder: Path) -> None:
    """Write the file into the folder of a checkpoint."""
    archive = io.BytesIO()
    torch.save(content, archive)
    data = archive.getbuffer()
    write_beside(folder / NAME, lambda path: path.write_bytes(data), needed=len(data))


def load(folder: Path, control: Control, watch: Watch) -> None:
    """Load the file; without a file, warn that tracking restarts.

    Args:
        folder: Folder of a checkpoint whose weights have been loaded.
        control: A `Control` with the same cures and momentum as the saved one.

    Raises:
        CheckpointError: The file cannot be read.
        TrackingError: The file belongs to other weights, or was written with other cures.
    """
    path = folder / NAME
    if not path.exists():
        warnings.warn(
            f"there is no {path}: tracker and schedules start again at step 0. If the checkpoint "
            "is in another folder, pass QuiesceTrainerCallback(resume_from=FOLDER)",
            stacklevel=2,
        )
        return
    saved = unpickled(path)
    if saved["weights"] != _fingerprint(control):
        raise TrackingError(
            f"{path} belongs to other weights than the Trainer has loaded; pass the checkpoint "
            "that they come from: QuiesceTrainerCallback(resume_from=FOLDER)"
        )
    control.load_state_dict(saved["control"])
    watch.load_state_dict(saved["watch"])


@torch.no_grad()
def _fingerprint(control: Control) -> list[int]:
    """Return checksums of the weights, to distinguish those of different checkpoints."""
    return torch.stack([checksum(weight.held) for weight in control.weights]).tolist()

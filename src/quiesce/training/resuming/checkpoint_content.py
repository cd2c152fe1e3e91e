"""Network weights and oscillation tracker from the content of a checkpoint."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import OutOfMemoryError, Tensor, nn

from quiesce.errors import CheckpointError, QuiesceError, TrackingError
from quiesce.files.untrusted.format_version import refuse_newer
from quiesce.files.weight_files import load_weights
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.prepare import quantized_weights

CONTROL_VERSION = 1
"""Newest readable version of the state of `quiesce.Control`."""

PASSED_ON = QuiesceError, OSError, OutOfMemoryError
"""Errors whose messages are already complete."""


def load(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy the weights of a file into a prepared network, or raise a CheckpointError."""
    try:
        load_weights(network, weights, source=path)
    except RuntimeError as error:  # from torch, with one line for each quantizer that differs
        first = str(error).partition("\n")[2].partition("\n")[0].strip()
        raise CheckpointError(f"{path}: {first or error}") from error


def control_of(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the state of the `Control` in a checkpoint, or raise a CheckpointError."""
    with one_line(path):
        states = content.get("callbacks", {}).values()
        control = next((state for state in states if "tracker" in state), None)
        if control is None:
            raise CheckpointError(
                f"{path} holds no oscillation tracker; the training must use a QuiesceCallback"
            )
        refuse_newer(str(path), control["version"], CONTROL_VERSION)
        return control


def tracker_of(
    network: nn.Module, state: dict[str, Any], prefix: str, path: Path
) -> OscillationTracker:
    """Return a tracker of a network's weights with a saved state.

    Args:
        network: The network, with the weights of the same checkpoint.
        prefix: Prefix of the tracker's names before the names of the network's layers.

    Raises:
        CheckpointError: The state does not fit the network.
    """
    with one_line(path):
        weights = quantized_weights(network)
        for weight in weights:  # as they were called in training
            weight.name = prefix + weight.name
        tracker = OscillationTracker(weights, state["momentum"])
        tracker.follow_average(weight for weight in weights if weight.name in state["followed"])
        tracker.load_state_dict(state)
        return tracker


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn any error of a block that reads a checkpoint into a CheckpointError of one line."""
    try:
        yield
    except Exception as error:  # torch and Lightning raise many kinds for a wrong entry
        if isinstance(error, PASSED_ON) and not isinstance(error, TrackingError):
            raise
        if isinstance(error, KeyError):
            reason = f"it lacks {error}"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or does not fit this training: {reason:.200}; train again"
        ) from error

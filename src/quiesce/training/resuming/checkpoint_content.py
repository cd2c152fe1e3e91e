"""What a checkpoint says of network and tracker: read with every entry checked."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from quiesce.errors import CheckpointError, TrackingError
from quiesce.files.untrusted.format_version import refuse_newer
from quiesce.files.untrusted.typed_values import count, mapping, number, text
from quiesce.files.weight_files import load_weights
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.prepare import quantized_weights

CONTROL_VERSION = 1
"""Newest version of the state of `quiesce.Control` that is read."""


def load(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy the weights of a file into a prepared network, scales and grids too.

    Raises:
        CheckpointError: They do not fit it, in a tensor or in the bits of a quantizer.
    """
    try:
        load_weights(network, weights, source=path)
    except RuntimeError as error:  # of torch, with a line for each quantizer that does not fit
        first = str(error).partition("\n")[2].partition("\n")[0].strip()
        raise CheckpointError(f"{path}: {first or error}") from error


def control_of(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the state of the `Control` in a checkpoint.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    with understood(path):
        states = mapping(content.get("callbacks", {})).values()
        found = [state for state in states if isinstance(state, dict) and "tracker" in state]
        if not found:
            raise CheckpointError(
                f"{path} holds no oscillation tracker; it must be of a training with a "
                "QuiesceCallback"
            )
        refuse_newer(str(path), count(found[0]["version"]), CONTROL_VERSION)
        tracker = mapping(found[0]["tracker"])
        number(tracker["momentum"])
        for names in (tracker["names"], tracker["followed"]):
            if not isinstance(names, list):
                raise ValueError(f"its tracker follows {names!r:.40}, which are no names")
            for name in names:
                text(name)
        return found[0]


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Make one line of a checkpoint whose entries are missing or of another kind.

    Raises:
        CheckpointError: The block raised what such entries raise.
    """
    try:
        yield
    except KeyError as error:
        raise CheckpointError(
            f"{path} is not of this version of quiesce: it lacks {error}; train again"
        ) from error
    except (
        *(ValueError, TypeError, AttributeError, IndexError),
        *(RuntimeError, ArithmeticError),  # what torch makes of odd numbers
    ) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def tracker_of(
    network: nn.Module, state: dict[str, Any], prefix: str, path: Path
) -> OscillationTracker:
    """Return a tracker of a network's weights, in a saved state.

    Args:
        network: With the weights of the same checkpoint.
        state: Of a tracker.
        prefix: What its names have before those of the network's layers.
        path: What messages call the checkpoint.

    Raises:
        CheckpointError: It does not fit.
    """
    weights = quantized_weights(_within(prefix, network))
    try:
        tracker = OscillationTracker(weights, state["momentum"])
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    tracker.follow_average(weight for weight in weights if weight.name in state["followed"])
    try:
        with understood(path):
            for number in ("steps", "base"):
                count(state[number])
            tracker.load_state_dict(state)
    except (TrackingError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit the recipe: {error}") from error
    return tracker


def _within(prefix: str, network: nn.Module) -> nn.Module:
    """Modules around the network, so that its layers have the names they had in training."""
    for name in reversed(prefix.split(".")[:-1]):
        outer = nn.Module()
        outer.add_module(name, network)
        network = outer
    return network

"""Checks that the saved state of a tracker belongs to another tracker of the same kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from quiesce.errors import TrackingError


def check_state(
    state: Mapping[str, Any], names: Sequence[str], momentum: float, followed: Sequence[str]
) -> None:
    """Refuse the state of a tracker with other layers, another momentum, or other averages.

    Args:
        state: The saved state.
        names: Names of the layers of this tracker.
        momentum: Its momentum.
        followed: The layers whose average of codes it tracks.

    Raises:
        TrackingError: The first difference.
    """
    if state["names"] != names:
        odd = sorted(set(state["names"]) ^ set(names)) or ["their order"]
        raise TrackingError(f"the saved tracker follows other layers; they differ in {odd[0]}")
    if state["momentum"] != momentum:
        raise TrackingError(
            f"the saved tracker has momentum {state['momentum']}, this one {momentum}; "
            "their frequencies do not compare"
        )
    if state["followed"] != followed:
        raise TrackingError(
            "the saved tracker follows the average of codes of other layers; make the Control "
            "with the same cures before loading"
        )

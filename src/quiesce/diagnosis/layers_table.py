"""The rows of layers.csv: the tracker's report of each layer at a step."""

from collections.abc import Sequence

from quiesce.oscillation.tracker import OscillationTracker

LAYER_COLUMNS = (
    *("step", "layer", "oscillating", "frozen", "flips_per_step", "transition_rate", "bits"),
)
"""`flips_per_step` is an average since the previous row of the layer."""


def flips_so_far(tracker: OscillationTracker) -> list[int]:
    """Return the flips of each layer since the tracker was made."""
    return [round(seen.flips_per_step * max(0, tracker.steps - 1)) for seen in tracker.report()]


def layer_rows(
    tracker: OscillationTracker, step: int, since: tuple[int, Sequence[int]], prefix: str = ""
) -> list[tuple[object, ...]]:
    """Return a row for each layer, in the order of the tracker.

    Args:
        since: Step of the previous rows, and `flips_so_far` of that step.
        prefix: Prefix of the tracker's names before the names of the network's layers.
    """
    last, before = since
    return [
        (
            step,
            seen.name.removeprefix(prefix),
            seen.oscillating,
            seen.frozen,
            (now - earlier) / max(1, step - last),
            seen.transition_rate,
            seen.bits,
        )
        for seen, now, earlier in zip(tracker.report(), flips_so_far(tracker), before, strict=True)
    ]

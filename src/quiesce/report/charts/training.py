"""Course of training: loss, accuracy, oscillating and frozen shares."""

from collections.abc import Sequence

from quiesce.report.charts.chart import Chart
from quiesce.report.charts.curves import curves
from quiesce.report.reading.series import WINDOW, smoothed
from quiesce.report.run_data import Group, Run, Series


def training(groups: Sequence[Group]) -> list[Chart]:
    """Return the curves in metrics.csv; oscillation is left out if no weight ever oscillates."""
    made = [
        curves(
            groups,
            _loss,
            title="Training loss",
            note=f"Running mean over {100 * WINDOW:g} % of the steps.",
            y="cross-entropy, nats",
            log=True,
        ),
        curves(groups, "top1_percent", title="Test accuracy", y="top-1, %"),
        curves(
            groups,
            "oscillating",
            title="Oscillating weights",
            y="share of low-bit weights, %",
            factor=100,
            zero=True,
        )
        if happens(groups, "oscillating")
        else None,
        curves(groups, "flips_per_step", title="Flips", y="codes that change in a step", zero=True)
        if happens(groups, "flips_per_step")
        else None,
    ]
    return [chart for chart in made if chart is not None]


def happens(groups: Sequence[Group], column: str) -> bool:
    """Return whether a column of metrics.csv is above 0 at some step of some run."""
    runs = [run for group in groups for run in group.runs]
    return any(run.curves[column].values.any() for run in runs if column in run.curves)


def _loss(run: Run) -> Series | None:
    return smoothed(run.curves["loss"]) if "loss" in run.curves else None

"""Schedules of a run: learning rate and strength of the cure."""

from collections.abc import Sequence
from dataclasses import replace

from quiesce.report.charts.chart import Chart
from quiesce.report.charts.curves import curves
from quiesce.report.run_data import Group, Run, Series

CURES = {
    "freeze": ("Freezing threshold", "oscillations per step"),
    "dampen": ("Dampening strength", "factor of the penalty"),
    "cga": ("Boundary range of CGA", "grid steps"),
    "trs": ("Learning rate of TRS", "in units of the initial one"),
}


def cure(groups: Sequence[Group]) -> list[Chart]:
    """Return the schedules in metrics.csv, and the frozen share."""

    def of(kind: str, column: str) -> Sequence[Group]:
        # groups without the cure keep their position, so the others keep their colours
        return [
            replace(group, runs=tuple(_only(run, kind, column) for run in group.runs))
            for group in groups
        ]

    made = [curves(groups, "lr", title="Learning rate", y="of the weights' optimizer", zero=True)]
    for kind, (title, unit) in CURES.items():
        made.append(curves(of(kind, "cure"), "cure", title=title, y=unit, zero=True))
    made.append(
        curves(
            of("freeze", "frozen"),
            "frozen",
            title="Frozen weights",
            y="share of low-bit weights, %",
            factor=100,
            zero=True,
        )
    )
    return [chart for chart in made if chart is not None]


def _only(run: Run, kind: str, column: str) -> Run:
    kept: dict[str, Series] = {}
    if run.cure == kind and column in run.curves:
        kept[column] = run.curves[column]
    return replace(run, curves=kept)

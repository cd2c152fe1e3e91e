"""Accuracy and oscillation against the values of a swept field."""

import statistics
from collections.abc import Callable, Sequence

import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, Key, figure, written
from quiesce.report.numbers import known
from quiesce.report.palette import color
from quiesce.report.run_data import Group, Run
from quiesce.report.verdict import final_top1


def ablation(groups: Sequence[Group], field: str) -> list[Chart]:
    """Return two charts over the values of a field: top-1 and oscillating share."""
    made = [
        _chart(groups, field, final_top1, "Accuracy", "top-1, %", 1),
        _chart(
            groups, field, lambda run: run.oscillating, "Oscillation", "low-bit weights, %", 100
        ),
    ]
    return [chart for chart in made if chart is not None]


def _chart(
    groups: Sequence[Group],
    field: str,
    measure: Callable[[Run], float | None],
    title: str,
    y: str,
    factor: float,
) -> Chart | None:
    points = [
        (group, [factor * value for value in known(measure(run) for run in group.runs)])
        for group in groups
        if field in group.fields
    ]
    points = [(group, values) for group, values in points if values]
    if len(points) < 2:
        return None
    variants = list(dict.fromkeys(group.variant for group, _ in points))
    settings = [group.fields[field] for group, _ in points]
    numbers = [each for each in settings if isinstance(each, int | float)]
    axis: dict[str, object] = {"type": "category"}
    if len(numbers) == len(settings):
        wide = min(numbers) > 0 and max(numbers) >= 10 * min(numbers)
        axis = {"type": "log" if wide else "linear", "tickvals": sorted(set(numbers))}
        axis["ticktext"] = [f"{each:g}" for each in sorted(set(numbers))]
    means = [statistics.fmean(values) for _, values in points]
    best = points[means.index(max(means))][0].label
    return Chart(
        title=title,
        note="Mean over seeds; bars are one standard deviation.",
        alt=f"{title} over {field}: between {min(means):.3g} and {max(means):.3g}, most at {best}.",
        figure=figure(
            [
                _points([pair for pair in points if pair[0].variant == variant], field, i)
                for i, variant in enumerate(variants)
            ],
            x=written(field),
            y=y,
            height=300,
            xaxis=axis,
        ),
        keys=tuple(
            Key(label=variant, color=color(i), dash="point") for i, variant in enumerate(variants)
        )
        if len(variants) > 1
        else (),
    )


def _points(points: Sequence[tuple[Group, list[float]]], field: str, place: int) -> go.Scatter:
    """Return the settings of one variant: means, and standard deviations for several seeds."""
    settings = [group.fields[field] for group, _ in points]
    spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
    return go.Scatter(
        x=[each if isinstance(each, int | float) else written(str(each)) for each in settings],
        y=[statistics.fmean(values) for _, values in points],
        error_y={"array": spreads, "color": color(place), "thickness": 1.2, "width": 4},
        mode="markers",
        marker={"color": color(place), "size": 9},
        text=[f"{written(group.label)}, n = {len(values)}" for group, values in points],
        hovertemplate="%{text}: %{y:.3g}<extra></extra>",
    )

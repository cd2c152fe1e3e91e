"""Curves over the steps of training: one colour per group, one line per run."""

from collections.abc import Callable, Sequence

import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, Key, figure, written
from quiesce.report.palette import color, dash
from quiesce.report.run_data import Group, Run, Series

STEPS = "optimizer step"


def legend(groups: Sequence[Group]) -> tuple[Key, ...]:
    """Return the colours of the groups; empty for a single group."""
    keys = (Key(label=group.label, color=color(i), dash=dash(i)) for i, group in enumerate(groups))
    return tuple(keys) if len(groups) > 1 else ()


def curves(
    groups: Sequence[Group],
    series: str | Callable[[Run], Series | None],
    *,
    title: str,
    y: str,
    note: str = "",
    factor: float = 1.0,
    log: bool = False,
    zero: bool = False,
) -> Chart | None:
    """Return one curve for each run with at least two points; None if no run has them.

    Args:
        groups: Groups in the order of their colours.
        series: A column of metrics.csv, or a function that returns the curve of a run.
        factor: Factor from the series to the axis: 100 for shares in percent.
        log: Whether the axis is logarithmic, if all values are above 0.
    """
    find = series if callable(series) else lambda run: run.curves.get(series)
    found = [
        (i, group, run, line)
        for i, group in enumerate(groups)
        for run in group.runs
        if (line := find(run)) is not None and len(line.steps) > 1
    ]
    if not found:
        return None
    traces = [
        go.Scatter(
            x=line.steps.round().astype("int32"),
            y=(factor * line.values).astype("float32"),
            name=written(run.title),
            mode="lines" if len(line.steps) > 25 else "lines+markers",
            opacity=1.0 if len(group.runs) == 1 else 0.65,
            line={"color": color(i), "dash": dash(i), "width": 2 if len(group.runs) == 1 else 1.4},
            marker={"color": color(i), "size": 5},
            hovertemplate="step %{x}: %{y:.4g}",
        )
        for i, group, run, line in found
    ]
    low, high = (factor * end(end(line.values) for *_, line in found) for end in (min, max))
    axis = {"type": "log"} if log and low > 0 else {"rangemode": "tozero" if zero else "normal"}
    drawn = {i for i, *_ in found}
    return Chart(
        title=title,
        note=note,
        alt=f"{title} over optimizer steps, {len(found)} curves between {low:.3g} and {high:.3g}; "
        f"{y}.",
        figure=figure(traces, x=STEPS, y=y, yaxis=axis),
        keys=tuple(key for i, key in enumerate(legend(groups)) if i in drawn),
    )

"""Remaining cost of oscillation: the loss with other codes of the oscillating weights."""

import numpy as np
import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, figure
from quiesce.report.palette import color
from quiesce.report.run_data import Run
from quiesce.run_folder.contents import Scored


def other_codes(run: Run, label: str, place: int) -> Chart | None:
    """Return the losses of a probe, one row per way to choose codes; None without a probe."""
    probe = run.probe
    if probe is None or probe.before is None:
        return None
    rows = {
        "as trained": _point(probe.before),
        "drawn": list(probe.sampled.each) if probe.sampled else [],
        "learned": _point(probe.learned),
    }
    rows = {name: np.array(points, float) for name, points in rows.items() if points}
    traces = [
        go.Scatter(
            x=points[:, 0].astype("float32"),
            y=np.full(len(points), i),
            customdata=points[:, 1].astype("float32"),
            mode="markers",
            marker={
                "color": color(place),
                "size": 10 if len(points) == 1 else 8,
                "opacity": 1.0 if len(points) == 1 else 0.5,
            },
            hovertemplate="training loss %{x:.4f}, top-1 %{customdata:.1f} %<extra></extra>",
        )
        for i, points in enumerate(rows.values())
    ]
    losses = ", ".join(f"{name} {points[:, 0].mean():.3g}" for name, points in rows.items())
    axis = {
        "tickvals": list(range(len(rows))),
        "ticktext": list(rows),
        "range": [len(rows) - 0.5, -0.5],
        "showgrid": False,
    }
    return Chart(
        title=label,
        note=f"{probe.weights:,} oscillating weights; drawn: {probe.samples} networks, "
        "each code by how long training held it; learned: by the training loss.",
        alt=f"Training loss by choice of codes: {losses}.",
        figure=figure(traces, x="training loss, nats", y=None, height=190, yaxis=axis),
    )


def _point(scored: Scored | None) -> list[tuple[float, float]]:
    return [(scored.loss, scored.top1_percent)] if scored else []

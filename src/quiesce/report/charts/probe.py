"""Remaining cost of oscillation: the loss with other codes of the oscillating weights."""

import numpy as np
import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, figure
from quiesce.report.palette import color
from quiesce.report.run_data import Run


def other_codes(run: Run, label: str, place: int) -> Chart | None:
    """Return the losses of a probe, one row per way to choose codes; None without a probe."""
    if run.probe is None:
        return None
    rows = {
        "as trained": np.array([run.probe.before]),
        "drawn": run.probe.drawn,
        "learned": np.array([run.probe.learned]) if run.probe.learned else np.empty((0, 2)),
    }
    rows = {name: points for name, points in rows.items() if len(points)}
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
        note=f"{run.probe.weights:,} oscillating weights; drawn: {run.probe.samples} networks, "
        "each code by how long training held it; learned: by the training loss.",
        alt=f"Training loss by choice of codes: {losses}.",
        figure=figure(traces, x="training loss, nats", y=None, height=190, yaxis=axis),
    )

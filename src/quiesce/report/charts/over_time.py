"""Where weights oscillate, and when: one row a layer, one column a moment of training."""

import numpy as np
import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, figure, ticks
from quiesce.report.charts.curves import STEPS
from quiesce.report.numbers import percent
from quiesce.report.palette import scale
from quiesce.report.runs import Run

ROWS = 60
"""Most layers of a chart."""


def over_time(run: Run, label: str, top: float) -> Chart | None:
    """Return the heat map of a run; None where it has no layers.csv.

    Args:
        run: Any.
        label: What the page calls it.
        top: Share, 0 to 1, that has the strongest colour.
    """
    matrix = low_bit_shares(run)
    if matrix is None or run.over_time is None:
        return None
    rows, shares = matrix
    peak = np.nanmax(shares, axis=1)
    kept = np.sort(np.argsort(-peak, kind="stable")[:ROWS])
    names = [rows[i] for i in kept]
    heat = go.Heatmap(
        x=run.over_time.steps.astype("int32"),
        y=np.arange(len(names), dtype="int16"),
        z=(100 * shares[kept]).astype("float32"),
        zmin=0,
        zmax=100 * top or 1,
        colorscale=scale(),
        showscale=False,
        hovertemplate="%{y}<br>step %{x}: %{z:.2f} %<extra></extra>",
    )
    most = names[int(np.argmax(peak[kept]))]
    note = f"The {ROWS} layers of {len(rows)} that oscillate most." if len(rows) > ROWS else ""
    return Chart(
        title=label,
        note=note,
        alt=f"Oscillating share of {len(names)} layers over optimizer steps, at the most "
        f"{percent(float(peak.max()))} in {most}.",
        figure=figure([heat], x=STEPS, y=None, height=70 + 17 * len(names), yaxis=ticks(names)),
        scale=("0 %", percent(top)),
    )


def low_bit_shares(run: Run) -> tuple[list[str], np.ndarray] | None:
    """Return names and shares of low-bit layers, of all where bits are not known; None of none."""
    if run.over_time is None:
        return None
    low = {layer.name for layer in run.low_bit_layers}
    chosen = [i for i, name in enumerate(run.over_time.layers) if name in low or not run.layers]
    if not chosen:
        return None
    return [run.over_time.layers[i] for i in chosen], run.over_time.oscillating[chosen]

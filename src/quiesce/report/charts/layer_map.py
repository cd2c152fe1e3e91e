"""Heat map with one row per layer, used for oscillation, offsets and codes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, figure, ticks
from quiesce.report.palette import scale as colors
from quiesce.run_folder.contents import DiagnosedLayer

ROWS = 60
"""Maximum number of layers in a map."""

FOLDED = 24
"""Maximum number of rows of an unfolded map: about half of a laptop's screen."""

ROW, REST = 17, 70
"""Height of a row, and of the rest of the figure, in pixels."""


def layer_map(
    names: Sequence[str],
    across: np.ndarray,
    values: np.ndarray,
    *,
    title: str,
    alt: str,
    top: float,
    scale: tuple[str, str],
    x: str,
    hover: str,
    note: str = "",
    xaxis: dict[str, Any] | None = None,
) -> Chart:
    """Return the chart of a map.

    Args:
        across: Positions or edges on the horizontal axis.
        values: Shape (layers, columns).
        top: Value of the strongest colour; the weakest is 0.
        hover: Hover text of a cell, with plotly's %{x} and %{z}.
    """
    cells = go.Heatmap(
        x=across,
        y=np.arange(len(names), dtype="int16"),
        z=values.astype("float32"),
        zmin=0,
        zmax=top or 1,
        colorscale=colors(),
        showscale=False,
        hovertemplate=f"%{{y}}<br>{hover}<extra></extra>",
    )
    height = REST + ROW * len(names)
    made = figure([cells], x=x, y=None, height=height, xaxis=xaxis or {}, yaxis=ticks(names))
    return Chart(title=title, alt=alt, figure=made, note=note, scale=scale, rows=len(names))


def most_oscillating(layers: Sequence[DiagnosedLayer]) -> list[DiagnosedLayer]:
    """Return the layers that fit in a map: those that oscillate most, in the network's order."""
    ranked = sorted(layers, key=lambda layer: -layer.oscillating)[:ROWS]
    names = {layer.name for layer in ranked}
    return [layer for layer in layers if layer.name in names]

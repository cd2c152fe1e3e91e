"""Position of latent weights between two codes; oscillating weights gather at the thresholds."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, figure, written
from quiesce.report.charts.curves import legend
from quiesce.report.charts.layer_map import layer_map, most_oscillating
from quiesce.report.palette import color, dash
from quiesce.report.run_data import Group, Run
from quiesce.run_folder.contents import OffsetCounts

OFFSET = "offset from the nearest code"

BRIGHTEST = 5.0
"""Density of the strongest colour, in multiples of even spacing."""

HIGHEST = 4.0
"""Largest density drawn: frozen weights are all at 0 and would flatten the rest."""


def offsets(groups: Sequence[Group]) -> Chart | None:
    """Return the offsets of all low-bit weights of each group's first run, overlaid."""
    found = [
        (i, group, edges, density(counts))
        for i, group in enumerate(groups)
        for edges, counts in _all_offsets(group.runs[0])
    ]
    if not found:
        return None
    lines = [
        go.Scatter(
            x=edges.astype("float32"),
            y=np.append(each, each[-1]).astype("float32"),
            name=written(group.label),
            line={"shape": "hv", "color": color(i), "dash": dash(i), "width": 2},
            hovertemplate="offset %{x:.2f}: %{y:.2f}",
        )
        for i, group, edges, each in found
    ]
    outside = [
        f"{group.label} goes up to {each.max():.1f}"
        for _, group, _, each in found
        if each.max() > HIGHEST
    ]
    made = figure(
        lines,
        x=OFFSET,
        y="density, even spacing = 1",
        height=300,
        xaxis={"range": [-0.5, 0.5], "tickvals": [-0.5, -0.25, 0, 0.25, 0.5]},
        yaxis={"range": [0, HIGHEST]} if outside else {"rangemode": "tozero"},
    )
    ends = (f"{group.label} {max(each[0], each[-1]):.2g}" for _, group, _, each in found)
    return Chart(
        title="All low-bit weights",
        note="1 is even spacing. Oscillating weights are at the two ends, near the thresholds; "
        "frozen and dampened weights are in the middle, on their code."
        + (f" Beyond the chart, {', and '.join(outside)}." if outside else ""),
        alt=f"Density of offsets between -1/2 and 1/2; at the thresholds: {', '.join(ends)}.",
        figure=made,
        keys=legend(groups),
        wide=True,
    )


def offsets_by_layer(run: Run, label: str) -> Chart | None:
    """Return the offsets of each low-bit layer of a run, one row per layer."""
    layers = most_oscillating([layer for layer in run.low_bit_layers if layer.offsets])
    histograms = [layer.offsets for layer in layers if layer.offsets]
    if not histograms:
        return None
    values = np.array([density(np.asarray(each.counts, float)) for each in histograms])
    return layer_map(
        [layer.name for layer in layers],
        np.asarray(histograms[0].edges, "float32"),
        values,
        title=label,
        alt=f"Density of offsets in each of {len(layers)} layers, at most {values.max():.2g} "
        "times even spacing.",
        top=BRIGHTEST,
        scale=("0", f"{BRIGHTEST:g} times even and more"),
        x=OFFSET,
        hover="offset %{x:.2f}: %{z:.2f} times even",
        xaxis={"tickvals": [-0.5, 0, 0.5]},
    )


def density(counts: np.ndarray) -> np.ndarray:
    """Return the weights in each bin, in multiples of even spacing."""
    return counts * len(counts) / max(counts.sum(), 1)


def _all_offsets(run: Run) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return edges and counts over all low-bit layers of a run; none if there is no data."""
    known: list[OffsetCounts] = [layer.offsets for layer in run.low_bit_layers if layer.offsets]
    if not known:
        return []
    return [
        (np.asarray(known[0].edges), np.sum([each.counts for each in known], axis=0, dtype=float))
    ]

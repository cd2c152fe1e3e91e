"""Final distribution of the weight codes, over all layers and in each layer."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, figure, written
from quiesce.report.charts.curves import legend
from quiesce.report.charts.layer_map import layer_map, most_oscillating
from quiesce.report.palette import color
from quiesce.report.run_data import Group, Run
from quiesce.run_folder.contents import CodeCounts


def codes(groups: Sequence[Group]) -> Chart | None:
    """Return the share of each code among all low-bit weights, runs side by side."""
    bars = []
    for i, group in enumerate(groups):
        known = _known(group.runs[0])
        if not known:
            continue
        places = _places(known)
        counts = np.sum([_counts(each, places) for each in known], axis=0)
        bars.append(
            go.Bar(
                x=places,
                y=(100 * counts / max(counts.sum(), 1)).astype("float32"),
                name=written(group.label),
                marker={"color": color(i)},
                hovertemplate="code %{x}: %{y:.1f} %",
            )
        )
    if not bars:
        return None
    return Chart(
        title="All low-bit weights",
        note="A code with hardly any weights is an unused level of the grid.",
        alt=f"Share of weights on each code, {len(bars)} networks side by side.",
        figure=figure(bars, x="code", y="share of low-bit weights, %", xaxis={"dtick": 1}),
        keys=legend(groups),
    )


def codes_by_layer(run: Run, label: str) -> Chart | None:
    """Return the share of each code in each low-bit layer of a run, one row per layer."""
    layers = most_oscillating([layer for layer in run.low_bit_layers if layer.codes])
    known = [layer.codes for layer in layers if layer.codes]
    if not known:
        return None
    places = _places(known)
    counts = np.array([_counts(each, places) for each in known])
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return layer_map(
        [layer.name for layer in layers],
        places.astype("int16"),
        shares,
        title=label,
        alt=f"Share of each code in each of {len(layers)} layers, at most {shares.max():.0f} %.",
        top=float(shares.max()),
        scale=("0 %", f"{shares.max():.0f} %"),
        x="code",
        hover="code %{x}: %{z:.1f} %",
        xaxis={"dtick": 1},
    )


def _known(run: Run) -> list[CodeCounts]:
    return [layer.codes for layer in run.low_bit_layers if layer.codes]


def _places(histograms: Sequence[CodeCounts]) -> np.ndarray:
    """Return all codes that occur in any of the counts, ascending."""
    return np.unique(np.concatenate([np.asarray(each.code, float) for each in histograms]))


def _counts(histogram: CodeCounts, places: np.ndarray) -> np.ndarray:
    """Return the counts at `places`, and 0 for codes that do not occur."""
    counts = dict(zip(histogram.code, histogram.counts, strict=True))
    return np.array([float(counts.get(place, 0)) for place in places])

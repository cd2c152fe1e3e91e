"""Where latents lie between two codes, and which codes there are: mass at thresholds shows here."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, figure, shortened, ticks, written
from quiesce.report.charts.curves import legend
from quiesce.report.charts.over_time import ROWS
from quiesce.report.palette import INK, color, dash, scale
from quiesce.report.runs import DEPTHWISE, Group, Layer, Run

OFFSET = "offset from the nearest code, codes"
DENSITY = "density, even spacing = 1"


HIGHEST = 4.0
"""Most density that is drawn: frozen weights all stand at 0, and would flatten the rest."""


def offsets(groups: Sequence[Group]) -> Chart | None:
    """Return the offsets of all low-bit weights, runs overlaid."""
    traces, ends, outside = [], [], []
    for i, group in enumerate(groups):
        layers = with_offsets(group.runs[0])
        if not layers:
            continue
        density = _density(layers)
        edges = layers[0].offsets.places if layers[0].offsets else np.array([])
        ends.append(f"{group.label}: {max(density[0], density[-1]):.2g} at the thresholds")
        if density.max() > HIGHEST:
            place = (edges[density.argmax()] + edges[density.argmax() + 1]) / 2
            outside.append(f"{shortened(group.label)}: up to {density.max():.1f} at {place:.2f}")
        traces.append(
            go.Scatter(
                x=edges.astype("float32"),
                y=np.append(density, density[-1]).astype("float32"),
                name=written(group.label),
                line={"shape": "hv", "color": color(i), "dash": dash(i), "width": 2},
                hovertemplate="offset %{x:.2f}: %{y:.2f}",
            )
        )
    if not traces:
        return None
    made = figure(
        traces,
        x=OFFSET,
        y=DENSITY,
        height=300,
        xaxis={"range": [-0.5, 0.5], "tickvals": [-0.5, -0.25, 0, 0.25, 0.5]},
        yaxis={"range": [0, HIGHEST]} if outside else {"rangemode": "tozero"},
    )
    if outside:
        made.add_annotation(
            text="<br>".join(outside),
            x=0.53,
            y=1,
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="top",
            align="left",
            showarrow=False,
            font={"size": 12, "color": INK},
        )
    return Chart(
        title="All low-bit weights",
        note="1 is even spacing. Weights that oscillate stand at the two ends, at the thresholds; "
        "frozen and dampened ones stand in the middle, on their code.",
        alt=f"Density of offsets between -1/2 and 1/2. {'; '.join(ends)}.",
        figure=made,
        keys=legend(groups),
        wide=True,
    )


def offsets_by_layer(run: Run, label: str) -> Chart | None:
    """Return the offsets of each low-bit layer of a run, a row each."""
    layers = _most_oscillating(with_offsets(run))
    if not layers:
        return None
    density = np.array([_density([layer]) for layer in layers])
    edges = layers[0].offsets.places if layers[0].offsets else np.array([])
    heat = go.Heatmap(
        x=edges.astype("float32"),
        y=np.arange(len(layers), dtype="int16"),
        z=density.astype("float32"),
        zmin=0,
        zmax=BRIGHTEST,
        colorscale=scale(),
        showscale=False,
        hovertemplate="%{y}<br>offset %{x:.2f}: %{z:.2f} times even<extra></extra>",
    )
    return Chart(
        title=label,
        alt=f"Density of offsets in each of {len(layers)} layers, at the most {density.max():.2g} "
        "times even spacing.",
        figure=figure(
            [heat],
            x=OFFSET,
            y=None,
            height=70 + 17 * len(layers),
            xaxis={"tickvals": [-0.5, 0, 0.5]},
            yaxis=ticks([layer.name for layer in layers]),
        ),
        scale=("0", f"{BRIGHTEST:g} times even and more"),
    )


BRIGHTEST = 5.0
"""Density, in multiples of even spacing, that has the strongest colour."""


def codes(groups: Sequence[Group]) -> Chart | None:
    """Return the share of each code among all low-bit weights, runs side by side."""
    traces = []
    for i, group in enumerate(groups):
        run = group.runs[0]
        layers = [
            layer for layer in run.low_bit_layers if layer.codes and layer.bits == run.low_bits
        ]
        if not layers:
            continue
        places = layers[0].codes.places if layers[0].codes else np.array([])
        counts = sum(_on(layer, places) for layer in layers)
        traces.append(
            go.Bar(
                x=places,
                y=(100 * counts / np.sum(counts)).astype("float32"),
                name=written(group.label),
                marker={"color": color(i)},
                hovertemplate="code %{x}: %{y:.1f} %",
            )
        )
    if not traces:
        return None
    return Chart(
        title="Codes in use",
        note="A code that hardly any weight has is a level of the grid that is lost.",
        alt=f"Share of weights on each code, {len(traces)} networks side by side.",
        figure=figure(traces, x="code", y="share of low-bit weights, %", xaxis={"dtick": 1}),
        keys=legend(groups),
    )


def codes_by_layer(run: Run, label: str) -> Chart | None:
    """Return the share of each code in each low-bit layer of a run, a row each."""
    layers = _most_oscillating([layer for layer in run.low_bit_layers if layer.codes])
    if not layers:
        return None
    places = np.unique(np.concatenate([each.codes.places for each in layers if each.codes]))
    shares = np.array([_on(layer, places) / layer.weights for layer in layers])
    heat = go.Heatmap(
        x=places.astype("int16"),
        y=np.arange(len(layers), dtype="int16"),
        z=(100 * shares).astype("float32"),
        zmin=0,
        colorscale=scale(),
        showscale=False,
        hovertemplate="%{y}<br>code %{x}: %{z:.1f} %<extra></extra>",
    )
    return Chart(
        title=label,
        alt=f"Share of each code in each of {len(layers)} layers.",
        figure=figure(
            [heat],
            x="code",
            y=None,
            height=70 + 17 * len(layers),
            xaxis={"dtick": 1},
            yaxis=ticks([layer.name for layer in layers]),
        ),
        scale=("0 %", f"{100 * shares.max():.0f} %"),
    )


def with_offsets(run: Run) -> list[Layer]:
    """Return the low-bit layers of which the offsets are known."""
    return [layer for layer in run.low_bit_layers if layer.offsets and layer.weights]


def _density(layers: Sequence[Layer]) -> np.ndarray:
    """Weights in each bin, as multiples of what even spacing would put there."""
    counts = np.sum([layer.offsets.counts for layer in layers if layer.offsets], axis=0)
    return counts * len(counts) / max(counts.sum(), 1)


def _on(layer: Layer, places: np.ndarray) -> np.ndarray:
    """The counts of a layer's codes at `places`."""
    if layer.codes is None:
        return np.zeros(len(places))
    by_code = dict(zip(layer.codes.places, layer.codes.counts, strict=True))
    return np.array([by_code.get(place, 0.0) for place in places])


def _most_oscillating(layers: Sequence[Layer]) -> list[Layer]:
    """At most ROWS layers, depth-wise ones first where shares are equal, in the network's order."""
    ranked = sorted(layers, key=lambda each: (-each.oscillating, each.kind != DEPTHWISE))[:ROWS]
    return [layer for layer in layers if layer in ranked]

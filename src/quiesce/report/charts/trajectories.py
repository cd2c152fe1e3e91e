"""Single weights, step by step: the latent weight crosses a threshold and the code changes."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, Key, figure
from quiesce.report.charts.curves import STEPS
from quiesce.report.numbers import percent
from quiesce.report.palette import HIGHLIGHT, INK, MUTED, RULE, color
from quiesce.report.run_data import Run, Trajectories

WEIGHTS = 3
"""Number of recorded weights that are drawn: those that oscillated most at the end."""

STEPS_SHOWN = 300
"""Number of last steps that are drawn; more would hide single oscillations."""

PANEL = 170
"""Height of the panel of one weight, in pixels."""

TITLE, LATENT, GAP = 0.17, 0.51, 0.06
"""Shares of a panel for the title, the latent weight and a gap; the rest is for the code."""


def weights_over_time(run: Run, label: str, place: int) -> Chart | None:
    """Return some weights of a run, one above the other; None for fewer than two steps.

    Args:
        run: The run.
        label: Name of the run on the page.
        place: Index of its colour.
    """
    seen = run.trajectories
    if seen is None or len(seen.steps) < 2:
        return None
    most = np.argsort(-seen.frequency[-1], kind="stable")[:WEIGHTS]
    made = figure([], x=STEPS, y=None, height=PANEL * len(most) + 50)
    for row, weight in enumerate(most):
        _panel(made, seen, int(weight), row, 1 / len(most), color(place))
    made.update_layout(xaxis={"anchor": f"y{2 * len(most)}"})
    shown = min(len(seen.steps), STEPS_SHOWN)
    which = f"The {len(most)} of {len(seen.index)} recorded weights that oscillate most"
    if not seen.frequency[-1].any():
        which = f"None of the {len(seen.index)} recorded weights oscillates; {len(most)} of them"
    return Chart(
        title=f"{label}: {seen.layer}",
        note=f"{which}, in the last {shown} recorded steps.",
        alt=f"Latent and code of {len(most)} weights of {seen.layer} over {shown} steps; the "
        f"first oscillates in {percent(float(seen.frequency[-1, most[0]]))} of steps.",
        figure=made,
        keys=(
            Key(label="latent", color=color(place)),
            Key(label="threshold", color=HIGHLIGHT, dash="dot"),
            Key(label="code", color=MUTED),
        ),
    )


def _panel(
    made: go.Figure, seen: Trajectories, weight: int, row: int, height: float, light: str
) -> None:
    """Draw one weight: its latent value on a narrow axis, and its code below."""
    last = slice(-STEPS_SHOWN, None)
    steps = seen.steps[last].astype("int32")
    position, code = seen.position[last, weight], seen.code[last, weight]
    top = 1 - row * height
    latent_top, latent_end = top - TITLE * height, top - (TITLE + LATENT) * height
    latent, codes = ("y" if row == 0 else f"y{2 * row + 1}"), f"y{2 * row + 2}"
    margin = 0.1 * float(np.ptp(position)) or 0.1
    low, high = float(position.min()) - margin, float(position.max()) + margin
    made.add_scatter(
        x=steps,
        y=position.astype("float32"),
        yaxis=latent,
        mode="lines",
        line={"color": light, "width": 1.6},
        hovertemplate="step %{x}: latent at %{y:.3f} codes<extra></extra>",
    )
    made.add_scatter(
        x=steps,
        y=code,
        yaxis=codes,
        mode="lines",
        line={"color": MUTED, "width": 1.2, "shape": "hv"},
        hovertemplate="step %{x}: code %{y}<extra></extra>",
    )
    for threshold in np.arange(seen.quant_min + 0.5, seen.quant_max, 1.0):
        if low < threshold < high:
            line = {"color": HIGHLIGHT, "width": 1.5, "dash": "dot"}
            made.add_shape(
                type="line", xref="paper", x0=0, x1=1, yref=latent, y0=threshold, y1=threshold,
                line=line,
            )  # fmt: skip
    bottom = 1 - (row + 1) * height
    made.update_layout(
        {
            _axis(latent): _look([latent_end, latent_top], [low, high]) | {"nticks": 4},
            _axis(codes): _look(
                [bottom + 0.04 * height, latent_end - GAP * height],
                [int(code.min()) - 0.25, int(code.max()) + 0.25],
            )
            | {"tickvals": sorted({int(code.min()), int(code.max())})},
        }
    )
    made.add_annotation(
        text=f"weight {seen.index[weight]}, frequency {seen.frequency[-1, weight]:.2g} per step",
        x=0,
        xref="paper",
        xanchor="left",
        y=latent_top,
        yref="paper",
        yanchor="bottom",
        showarrow=False,
        font={"color": INK, "size": 12},
    )


def _look(domain: list[float], shown: list[float]) -> dict[str, Any]:
    return {
        "domain": domain,
        "range": shown,
        "zeroline": False,
        "gridcolor": RULE,
        "linecolor": RULE,
        "automargin": True,
        "title": {"text": None},
    }


def _axis(reference: str) -> str:
    return f"yaxis{reference[1:]}"

"""Single weights, step by step: the latent weight crosses a threshold and the code changes."""

from typing import Any

import numpy as np
from plotly.subplots import make_subplots

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


def weights_over_time(run: Run, label: str, place: int) -> Chart | None:
    """Return some weights of a run, one above the other; None for fewer than two steps."""
    seen = run.trajectories
    if seen is None or len(seen.steps) < 2:
        return None
    most = np.argsort(-seen.frequency[-1], kind="stable")[:WEIGHTS]
    titles = [
        f"weight {seen.index[weight]}, frequency {seen.frequency[-1, weight]:.2g} per step"
        for weight in most
    ]
    made = make_subplots(
        rows=2 * len(most),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.3 / (2 * len(most)),
        row_heights=[3, 1] * len(most),
        subplot_titles=[text for title in titles for text in (title, "")],
        figure=figure([], x="", y=None, height=PANEL * len(most) + 70),
    )
    for i, weight in enumerate(most):
        _panel(made, seen, int(weight), 2 * i + 1, color(place))
    axis = {"zeroline": False, "gridcolor": RULE, "linecolor": RULE, "automargin": True}
    made.update_yaxes(axis | {"nticks": 4})
    made.update_xaxes(axis | {"showgrid": False})
    made.update_xaxes(title_text=STEPS, ticks="outside", row=2 * len(most), col=1)
    made.update_layout(margin_t=28)  # for the first title
    made.update_annotations(font={"color": INK, "size": 12}, x=0, xanchor="left")
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


def _panel(made: Any, seen: Trajectories, weight: int, row: int, light: str) -> None:
    """Draw the latent value of a weight with its thresholds, and the code in the row below."""
    last = slice(-STEPS_SHOWN, None)
    steps = seen.steps[last].astype("int32")
    position, code = seen.position[last, weight], seen.code[last, weight]
    margin = 0.1 * float(np.ptp(position)) or 0.1
    low, high = float(position.min()) - margin, float(position.max()) + margin
    made.add_scatter(
        x=steps,
        y=position.astype("float32"),
        mode="lines",
        line={"color": light, "width": 1.6},
        hovertemplate="step %{x}: latent at %{y:.3f} codes<extra></extra>",
        row=row,
        col=1,
    )
    made.add_scatter(
        x=steps,
        y=code,
        mode="lines",
        line={"color": MUTED, "width": 1.2, "shape": "hv"},
        hovertemplate="step %{x}: code %{y}<extra></extra>",
        row=row + 1,
        col=1,
    )
    for threshold in np.arange(seen.quant_min + 0.5, seen.quant_max, 1.0):
        if low < threshold < high:
            line = {"color": HIGHLIGHT, "width": 1.5, "dash": "dot"}
            made.add_hline(y=threshold, line=line, row=row, col=1)
    made.update_yaxes(range=[low, high], row=row, col=1)
    made.update_yaxes(tickvals=sorted({int(code.min()), int(code.max())}), row=row + 1, col=1)

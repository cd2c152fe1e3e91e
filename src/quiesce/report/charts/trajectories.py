"""Single weights, step by step: the latent crosses a threshold, and the code goes with it."""

import numpy as np
import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, Key, figure
from quiesce.report.charts.curves import STEPS
from quiesce.report.numbers import percent
from quiesce.report.palette import HIGHLIGHT, INK, MUTED, RULE, color
from quiesce.report.runs import Run

WEIGHTS = 4
"""How many are drawn, of those recorded: the ones that oscillated most at the end."""

STEPS_SHOWN = 300
"""Last steps that are drawn; more would hide single oscillations."""


def weights_over_time(run: Run, label: str, place: int) -> Chart | None:
    """Return some weights of a run, one above the other; None where none were recorded.

    Args:
        run: Any.
        label: What the page calls it.
        place: Of its colour.
    """
    seen = run.trajectories
    if seen is None:
        return None
    most = np.argsort(-seen.frequency[-1], kind="stable")[:WEIGHTS]
    last = slice(-STEPS_SHOWN, None)
    steps = seen.steps[last].astype("int32")
    gap, height = 0.07, (1 - 0.07 * (len(most) - 1)) / len(most)
    traces, axes, labels, lines = [], {}, [], []
    for row, weight in enumerate(most):
        axis = "y" if row == 0 else f"y{row + 1}"
        position, code = seen.position[last, weight], seen.code[last, weight]
        low, high = min(position.min(), code.min()) - 0.15, max(position.max(), code.max()) + 0.15
        top = 1 - row * (height + gap)
        axes[f"yaxis{row + 1}" if row else "yaxis"] = {
            "domain": [top - height, top - 0.035],
            "range": [low, high],
            "tickformat": "d",
            "dtick": max(1, round((high - low) / 4)),
            "zeroline": False,
            "gridcolor": RULE,
            "automargin": True,
            "title": {"text": "codes", "font": {"color": MUTED, "size": 12}, "standoff": 4},
        }
        labels.append(
            {
                "text": f"weight {seen.index[weight]}, "
                f"frequency {seen.frequency[-1, weight]:.2g} per step",
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": top - 0.035,
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"color": INK, "size": 12},
            }
        )
        for threshold in np.arange(np.floor(low) + 0.5, high, 1.0):
            if threshold > low:
                lines.append(_line(threshold, axis))
        common = {"x": steps, "yaxis": axis, "mode": "lines"}
        traces.append(
            go.Scatter(
                **common,
                y=code,
                line={"color": MUTED, "width": 1.2, "shape": "hv"},
                hovertemplate="step %{x}: code %{y}<extra></extra>",
            )
        )
        traces.append(
            go.Scatter(
                **common,
                y=position.astype("float32"),
                line={"color": color(place), "width": 1.8},
                hovertemplate="step %{x}: latent at %{y:.3f} codes<extra></extra>",
            )
        )
    made = figure(traces, x=STEPS, y=None, height=130 * len(most) + 50)
    made.update_layout(
        annotations=labels,
        shapes=lines,
        xaxis={"anchor": "y" if len(most) == 1 else f"y{len(most)}"},
        **axes,
    )
    return Chart(
        title=f"{label}: {seen.layer}",
        note=f"The {len(most)} of {len(seen.index)} recorded weights that oscillate most, in the "
        f"last {len(steps)} recorded steps.",
        alt=f"Latent and code of {len(most)} weights of {seen.layer} over {len(steps)} steps; the "
        f"first oscillates in {percent(float(seen.frequency[-1, most[0]]))} of steps.",
        figure=made,
        keys=(
            Key(label="latent", color=color(place)),
            Key(label="code", color=MUTED),
            Key(label="threshold", color=HIGHLIGHT, dash="dot"),
        ),
    )


def _line(threshold: float, axis: str) -> dict[str, object]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": axis,
        "y0": threshold,
        "y1": threshold,
        "line": {"color": HIGHLIGHT, "width": 1, "dash": "dot"},
    }

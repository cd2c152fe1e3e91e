"""Error of running batch-norm statistics: by kind of layer, and over training."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from quiesce.report.charts.chart import Chart, Key, figure, written
from quiesce.report.charts.curves import curves, legend
from quiesce.report.numbers import nats
from quiesce.report.palette import HIGHLIGHT, color
from quiesce.report.run_data import DEPTHWISE, Group, Run, Series
from quiesce.report.verdict import OFF_NATS

FLOOR_NATS = 1e-6
"""Smallest KL drawn, because a logarithmic axis has no zero."""

KINDS = (DEPTHWISE, "point-wise", "full", "linear", "other", "not diagnosed")


def by_kind(groups: Sequence[Group]) -> Chart | None:
    """Return one dot per batch norm, one row per kind of layer; None for fewer than two."""
    runs = [group.runs[0] for group in groups]
    present = {norm.kind for run in runs for norm in run.batchnorms}
    kinds = [kind for kind in KINDS if kind in present] + sorted(present - set(KINDS))
    if sum(len(run.batchnorms) for run in runs) < 2:
        return None
    traces = []
    for i, (group, run) in enumerate(zip(groups, runs, strict=True)):
        shift = 0.16 * (i - (len(groups) - 1) / 2)
        norms = run.batchnorms
        traces.append(
            go.Scatter(
                x=np.maximum([norm.kl_mean for norm in norms], FLOOR_NATS),
                y=np.array([kinds.index(norm.kind) + shift for norm in norms]),
                mode="markers",
                name=written(group.label),
                text=[written(norm.name) for norm in norms],
                marker={"color": color(i), "size": 9, "opacity": 0.75},
                hovertemplate="%{text}: %{x:.2g} nats",
            )
        )
    worst = max((norm for run in runs for norm in run.batchnorms), key=lambda norm: norm.kl_mean)
    rows = {
        "tickvals": list(range(len(kinds))),
        "ticktext": [written(kind) for kind in kinds],
        "range": [len(kinds) - 0.5, -0.5],
        "showgrid": False,
    }
    made = figure(
        traces,
        x="KL of population from running statistics, nats",
        y=None,
        height=90 + 60 * len(kinds),
        xaxis={"type": "log"},
        yaxis=rows,
    )
    made.add_vline(x=OFF_NATS, line={"color": HIGHLIGHT, "width": 1, "dash": "dot"})
    keys = [Key(label=key.label, color=key.color, dash="point") for key in legend(groups)]
    return Chart(
        title="Depth-wise against the others",
        note="One dot for each batch norm, by the kind of the layer that feeds it; mean over its "
        f"channels. {OFF_NATS:g} nats, the line, is a mean that is off by a fifth of its standard "
        "deviation.",
        alt=f"KL of each batch norm by kind of layer; the worst is {worst.name}, "
        f"{nats(worst.kl_mean)}.",
        figure=made,
        keys=(*keys, Key(label="off", color=HIGHLIGHT, dash="dot")),
    )


def during_training(groups: Sequence[Group]) -> list[Chart]:
    """Return KL and loss over the steps at which they were measured."""

    def kl(kind: str, title: str) -> Chart | None:
        return curves(
            groups,
            lambda run: run.batchnorm_curves.get(kind),
            title=title,
            y="mean KL, nats",
            log=True,
        )

    made = [
        kl(DEPTHWISE, "Statistics during training, depth-wise layers"),
        kl("other", "Statistics during training, other layers"),
        curves(
            groups,
            _loss_gap,
            title="What the statistics cost",
            note="Training loss on running statistics, minus that on re-estimated ones.",
            y="cross-entropy, nats",
            zero=True,
        ),
    ]
    return [chart for chart in made if chart is not None]


def _loss_gap(run: Run) -> Series | None:
    running, again = (
        run.batchnorm_losses.get(f"loss_{what}") for what in ("running", "reestimated")
    )
    if running is None or again is None or len(running.steps) != len(again.steps):
        return None
    return Series(steps=running.steps, values=running.values - again.values)

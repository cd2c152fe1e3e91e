"""The comparison of methods as an HTML page: a table, then two panels for each method.

The upper panel shows latent weight, quantized weight, optimum and threshold, the lower one the
gradient. The page is one self-contained file. It needs the extra "report".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quiesce.extras import require
from quiesce.toy.methods import SYMBOLS, Outcome
from quiesce.toy.regression import Regression

SHOWN = 130
"""Steps in the panels; StableQAT reaches the threshold after 106 steps of the default settings."""
COLOURS = {"latent": "#3b82f6", "quantized": "#10a35a", "threshold": "#e5484d", "bars": "#9b6dde"}
OPTIMUM = "#8a8a8a"

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_GRID = "rgba(128,128,128,0.25)"


def page(outcomes: Sequence[Outcome], regression: Regression, settings: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        settings: Names and values of the settings, for the text of the page.

    Raises:
        MissingExtraError: plotly or jinja2 is not installed.
    """
    jinja2 = require("jinja2", "the figure of `quiesce toy`", "report")
    offline = require("plotly.offline", "the figure of `quiesce toy`", "report")
    low, high = _range(outcomes, regression)
    steps = min(SHOWN, len(outcomes[0].trace.gradient))
    rows = [
        {"outcome": outcome, "chart": _chart(outcome, regression, steps, (low, high))}
        for outcome in outcomes
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        rows=rows,
        settings=settings,
        shown=steps,
        symbols=SYMBOLS,
        colours={**COLOURS, "optimum": OPTIMUM},
        plotly_js=offline.get_plotlyjs(),
    )


def _range(outcomes: Sequence[Outcome], regression: Regression) -> tuple[float, float]:
    """Return an interval with both levels and all latent weights that are shown."""
    level, scale = regression.lower_code * regression.scale, regression.scale.item()
    shown = [outcome.trace.latent[: SHOWN + 1, 0] for outcome in outcomes]
    low = min(level.item(), *(latent.min().item() for latent in shown))
    high = max(level.item() + scale, *(latent.max().item() for latent in shown))
    return low - 0.1 * scale, high + 0.1 * scale


def _chart(outcome: Outcome, regression: Regression, steps: int, span: tuple[float, float]) -> str:
    """Return the two panels of one method as HTML."""
    subplots = require("plotly.subplots", "the figure of `quiesce toy`", "report")
    trace, scale = outcome.trace, regression.scale.item()
    figure = subplots.make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.64, 0.36], vertical_spacing=0.06
    )
    at = list(range(steps + 1))
    latent = trace.latent[: steps + 1, 0].tolist()
    quantized = (trace.code[: steps + 1, 0] * scale).tolist()
    figure.add_scatter(
        x=at, y=latent, name="latent", line={"color": COLOURS["latent"], "width": 2}, row=1, col=1
    )
    figure.add_scatter(
        x=at,
        y=quantized,
        name="quantized",
        mode="markers",
        marker={"color": COLOURS["quantized"], "symbol": "x-thin-open", "size": 6},
        row=1,
        col=1,
    )
    target, threshold = regression.target.item(), regression.threshold.item()
    lines = ((target, OPTIMUM, "dash"), (threshold, COLOURS["threshold"], "dot"))
    for value, colour, dash in lines:
        figure.add_hline(y=value, line={"color": colour, "dash": dash, "width": 1.5}, row=1, col=1)  # pyright: ignore
    figure.add_bar(
        x=at[:-1],
        y=trace.gradient[:steps, 0].tolist(),
        name="gradient",
        marker={"color": COLOURS["bars"], "line": {"width": 0}},
        row=2,
        col=1,
    )
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "fixedrange": True}
    figure.update_xaxes(**axis, range=[-1, steps + 1])
    figure.update_xaxes(title=_title("optimizer step"), row=2, col=1)
    figure.update_yaxes(**axis)
    figure.update_yaxes(
        title=_title("weight"), range=span, tickformat=".3~g", nticks=6, row=1, col=1
    )
    figure.update_yaxes(title=_title("gradient dL/dw"), tickformat=".2~g", nticks=5, row=2, col=1)
    figure.update_layout(
        template="none",
        height=330,
        margin={"l": 76, "r": 10, "t": 8, "b": 44},
        showlegend=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
        hovermode="x unified",
        bargap=0.25,
    )
    options: dict[str, Any] = {"displayModeBar": False, "responsive": True}
    return figure.to_html(full_html=False, include_plotlyjs=False, config=options)


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 12}, "standoff": 10}

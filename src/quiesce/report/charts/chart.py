"""Style shared by all charts, and the texts that the page shows around a chart."""

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from quiesce.report.palette import INK, MUTED, RULE

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
LONGEST = 24
"""Maximum length of a layer name beside a chart, in characters."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One entry of the legend above a chart."""

    label: str
    """Label of the entry."""
    color: str
    """A light colour of the palette."""
    dash: str = "solid"
    """A dash style of plotly, or "point" for a dot."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure and its texts."""

    title: str
    """Heading of the chart."""
    alt: str
    """Text alternative for screen readers."""
    figure: go.Figure
    """The figure, in light colours."""
    note: str = ""
    """Text below the title: what to look for."""
    keys: tuple[Key, ...] = ()
    """Legend; empty if the chart has labels or only one colour."""
    scale: tuple[str, str] | None = None
    """Ends of the colour scale of a heat map."""
    rows: int = 0
    """Number of layers of a heat map; the page folds a large map."""
    wide: bool = False
    """Whether the chart takes the full width of a laptop screen."""


def figure(traces: Iterable[Any], *, x: str, y: str | None, height: int = 260, **axes: Any) -> Any:
    """Return a figure in the style of the page.

    Args:
        traces: The plotly traces.
        x: Title of the horizontal axis, with its unit.
        y: Title of the vertical axis, with its unit; None if tick labels suffice.
        height: Height in pixels; the width follows the page.
        axes: Further options of `xaxis` and `yaxis`, in plotly's format.
    """
    line = {"linecolor": RULE, "zeroline": False, "automargin": True, "gridcolor": RULE}
    line |= {"exponentformat": "power", "minexponent": 4}
    titled = {"font": {"color": MUTED, "size": 12}, "standoff": 8}
    across = line | {"showgrid": False, "ticks": "outside", "tickcolor": RULE, "nticks": 6}
    across |= {"ticklabeloverflow": "allow"}
    down = line | {"showgrid": True, "ticks": "", "nticks": 6}
    return go.Figure(
        list(traces),
        go.Layout(
            template=go.layout.Template(),
            height=height,
            margin={"l": 8, "r": 18, "t": 10, "b": 8, "pad": 0},
            font={"family": FONT, "size": 12, "color": MUTED},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            showlegend=False,
            hovermode="closest",
            hoverlabel={"font": {"family": FONT, "size": 12}},
            xaxis=across | {"title": titled | {"text": x}} | axes.get("xaxis", {}),
            yaxis=down | {"title": titled | {"text": y}} | axes.get("yaxis", {}),
        ),
    )


LARGEST = 1e300
"""Largest end of a logarithmic axis: the next decade must be finite too."""


def logarithmic(low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis, labelled at decades, or at 1, 2, 5 if there are few decades.

    The axis is linear if fewer than two of these ticks lie between the ends, or an end is not
    finite.

    Args:
        low: Smallest value on the axis, above 0.
        high: Largest value on the axis.
    """
    if not high < LARGEST:
        return {"type": "linear"}
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    heads = (1, 2, 5) if last - first <= 2 else (1,)
    values = [head * 10.0**power for power in range(first, last + 1) for head in heads]
    if sum(low <= value <= high for value in values) < 2:
        return {"type": "linear"}
    values = [value for value in values if low / 1.3 <= value <= high * 1.3]
    return {
        "type": "log",
        "tickmode": "array",
        "tickvals": values,
        "ticktext": [_power(value) for value in values],
        "showgrid": True,
    }


def _power(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    head, power = f"{value:.0e}".split("e")
    return f"{'' if head == '1' else head + '·'}10<sup>{int(power)}</sup>"


def written(name: str) -> str:
    """Return a name escaped for plotly, which reads texts as a kind of HTML."""
    return html.escape(" ".join(name.split()), quote=False)


def shortened(name: str) -> str:
    """Return the end of a long name, escaped for plotly; layer names differ at the end."""
    name = " ".join(name.split())
    return written(name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}")


def ticks(names: Iterable[str]) -> dict[str, Any]:
    """Return an axis of names at 0, 1, 2 ..., with the first on top."""
    short = [shortened(name) for name in names]
    return {
        "tickmode": "array",
        "tickvals": list(range(len(short))),
        "ticktext": short,
        "autorange": "reversed",
        "showgrid": False,
        "tickfont": {"size": 11, "color": INK},
    }

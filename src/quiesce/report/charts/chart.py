"""Style shared by all charts, and the texts that the page shows around a chart."""

import html
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

"""What all charts share: how they look, and what the page writes around one."""

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from quiesce.report.palette import INK, MUTED, RULE

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
LONGEST = 24
"""Most characters of a layer's name beside a chart."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One entry of the legend that the page writes above a chart."""

    label: str
    """What the mark is of."""
    color: str
    """A light colour of the palette."""
    dash: str = "solid"
    """As plotly names dashes; "point" for a dot."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure, and the words around it."""

    title: str
    """Above it."""
    alt: str
    """What a person who can not see it is told."""
    figure: go.Figure
    """In light colours."""
    note: str = ""
    """Below the title: what to look for."""
    keys: tuple[Key, ...] = ()
    """Legend; none where labels are in the chart, or one colour is drawn."""
    scale: tuple[str, str] | None = None
    """Ends of the colour scale of a heat map."""
    wide: bool = False
    """Whether it takes the whole width of a laptop."""


def figure(traces: Iterable[Any], *, x: str, y: str | None, height: int = 260, **axes: Any) -> Any:
    """Return a figure with the page's look.

    Args:
        traces: What is drawn.
        x: Title of the horizontal axis, with its unit.
        y: Title of the vertical axis, with its unit; None where names say it.
        height: In pixels; the width follows the page.
        axes: `xaxis` and `yaxis`: more about them, as plotly takes it.
    """
    line = {"linecolor": RULE, "zeroline": False, "automargin": True, "gridcolor": RULE}
    titled = {"font": {"color": MUTED, "size": 12}, "standoff": 8}
    across = line | {"showgrid": False, "ticks": "outside", "tickcolor": RULE, "nticks": 6}
    down = line | {"showgrid": True, "nticks": 6}
    return go.Figure(
        list(traces),
        go.Layout(
            template=go.layout.Template(),
            height=height,
            margin={"l": 8, "r": 14, "t": 10, "b": 8, "pad": 0},
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
    """Return a name as plotly shows it word for word: its texts are a kind of HTML."""
    return html.escape(" ".join(name.split()), quote=False)


def shortened(name: str) -> str:
    """Return the end of a long name, ready for plotly; ends tell layers apart."""
    name = " ".join(name.split())
    return written(name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}")


def ticks(names: Iterable[str]) -> dict[str, Any]:
    """Return an axis of names, the first on top, at 0, 1, 2 ..."""
    short = [shortened(name) for name in names]
    return {
        "tickmode": "array",
        "tickvals": list(range(len(short))),
        "ticktext": short,
        "autorange": "reversed",
        "showgrid": False,
        "tickfont": {"size": 11, "color": INK},
    }

"""Colours of the page, in light and in dark, by name.

Charts are drawn in the light colours; in dark mode, the page replaces each by its partner. The
colours of groups are distinct for all kinds of colour vision (after Okabe and Ito), with a contrast
of at least 3 : 1 to the background; text has at least 4.5 : 1; see `tests/report/test_palette.py`.
"""

LIGHT = {
    "paper": "#fcfcfa",
    "panel": "#f3f4f2",
    "ink": "#1d2127",
    "muted": "#59616c",
    "rule": "#dfe2e6",
    "highlight": "#8a6400",
    "good": "#007350",
    "bad": "#b3400a",
    "group-0": "#0072b2",
    "group-1": "#d55e00",
    "group-2": "#007e5c",
    "group-3": "#a6407a",
    "group-4": "#76630a",
    "group-5": "#5a55c8",
    "scale-0": "#eef1f4",
    "scale-1": "#b7cfe4",
    "scale-2": "#6ba3cd",
    "scale-3": "#2a6ea6",
    "scale-4": "#0b3a66",
}

DARK = {
    "paper": "#15181c",
    "panel": "#1e2227",
    "ink": "#e7e9ec",
    "muted": "#a4abb5",
    "rule": "#343a42",
    "highlight": "#e0b44c",
    "good": "#45cfa2",
    "bad": "#ff9d66",
    "group-0": "#5ab4ea",
    "group-1": "#ff9350",
    "group-2": "#35c89c",
    "group-3": "#e79ac6",
    "group-4": "#d8c24a",
    "group-5": "#aaa6ff",
    "scale-0": "#20262d",
    "scale-1": "#24476a",
    "scale-2": "#2f78af",
    "scale-3": "#6db3e3",
    "scale-4": "#d9edfb",
}

INK, MUTED, RULE = LIGHT["ink"], LIGHT["muted"], LIGHT["rule"]
HIGHLIGHT = LIGHT["highlight"]
"""Colour of thresholds and other lines that are not data."""

GROUPS = tuple(value for name, value in LIGHT.items() if name.startswith("group"))
SCALE = tuple(value for name, value in LIGHT.items() if name.startswith("scale"))
DASHES = ("solid", "dash", "dot", "dashdot")


def color(place: int) -> str:
    """Return the colour of the group at an index."""
    return GROUPS[place % len(GROUPS)]


def dash(place: int) -> str:
    """Return the dash style of the group at an index: solid until all colours are used."""
    return DASHES[place // len(GROUPS) % len(DASHES)]


def scale() -> list[tuple[float, str]]:
    """Return the colour scale of heat maps, from lowest to highest, in plotly's format."""
    return [(i / (len(SCALE) - 1), each) for i, each in enumerate(SCALE)]


def variable(light: str) -> str:
    """Return the CSS variable of a light colour."""
    return next(f"var(--{name})" for name, value in LIGHT.items() if value == light)

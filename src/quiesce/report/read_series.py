"""What a run wrote down while it trained: tables of steps, kept small enough for a page."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from quiesce.report.files import read_table, reading
from quiesce.report.runs import DEPTHWISE, LayersOverTime, Series

POINTS = 300
"""Most points of a curve: about one for each pixel of a chart that fills half a screen."""


WINDOW = 0.08
"""Share of a curve that a running mean is over."""


def curves(path: Path) -> dict[str, Series]:
    """Return each column of a table by step, without its empty cells; nothing where it is not.

    Raises:
        RecipeError: The file is damaged.
    """
    columns: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with reading(path):
        for row in read_table(path):
            step = row.pop("step")
            for name, value in row.items():
                if step is not None and value is not None:
                    columns[name].append((float(step), float(value)))
    return {name: thinned(*np.array(points).T) for name, points in columns.items()}


def thinned(steps: np.ndarray, values: np.ndarray, most: int = POINTS) -> Series:
    """Return at most so many points: means over equal stretches, and the last point as it is.

    Args:
        steps: Shape (points,), in any order.
        values: Shape (points,).
        most: At least 2.
    """
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    if len(steps) > most:
        stretches = np.array_split(np.arange(len(steps) - 1), most - 1)
        steps = np.array([*(steps[each].mean() for each in stretches), steps[-1]])
        values = np.array([*(values[each].mean() for each in stretches), values[-1]])
    return Series(steps=steps, values=values)


def smoothed(series: Series) -> Series:
    """Return running means over `WINDOW` of the points, over half of it at the ends."""
    half = max(1, round(WINDOW * len(series.values) / 2))
    total = np.concatenate([[0.0], np.cumsum(series.values)])
    place = np.arange(len(series.values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(place))
    return Series(steps=series.steps, values=(total[last] - total[first]) / (last - first))


def layers_over_time(path: Path) -> LayersOverTime | None:
    """Return layers.csv as a matrix; None where it is not, or is empty.

    Raises:
        RecipeError: The file is damaged.
    """
    with reading(path):
        rows = read_table(path, text=("layer",))
        layers = list(dict.fromkeys(str(row["layer"]) for row in rows))
        steps = sorted({float(row["step"]) for row in rows if row["step"] is not None})
        if not rows:
            return None
        column = {step: i for i, step in enumerate(steps)}
        line = {name: i for i, name in enumerate(layers)}
        shares = np.full((len(layers), len(steps)), np.nan)
        for row in rows:
            shares[line[str(row["layer"])], column[row["step"]]] = row["oscillating"]
    return LayersOverTime(layers=tuple(layers), steps=np.array(steps), oscillating=shares)


def batchnorm_curves(path: Path) -> dict[str, Series]:
    """Return the KL over steps, averaged over depth-wise layers and over the others.

    Raises:
        RecipeError: The file is damaged.
    """
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    with reading(path):
        for row in read_table(path, text=("layer", "kind")):
            kind = DEPTHWISE if row["kind"] == DEPTHWISE else "other"
            found[kind][float(row["step"])].append(float(row["kl_mean"]))
    return {
        kind: thinned(np.array(list(by_step)), np.array([np.mean(kl) for kl in by_step.values()]))
        for kind, by_step in found.items()
    }

"""Reads the tables of steps of a run, reduced to a size that suits a page."""

import math
from array import array
from collections import defaultdict
from pathlib import Path

import numpy as np

from quiesce.report.reading.files import read_table
from quiesce.report.run_data import DEPTHWISE, LayersOverTime, Series
from quiesce.run_folder.reading import reading

POINTS = 300
"""Maximum number of points of a curve: about one per pixel of a chart on half a screen."""


MOST_CELLS = 4_000_000
"""Maximum size of the matrix of layers by steps: ten times 2,000 layers at 200 steps."""

WINDOW = 0.08
"""Window of the running mean, as a share of the curve."""


def curves(path: Path) -> dict[str, Series]:
    """Return each column of a table by step, without empty cells; empty if there is no table.

    Raises:
        RecipeError: The file is damaged.
    """
    columns: dict[str, tuple[array[float], array[float]]] = {}
    with reading(path):
        for row in read_table(path):
            step = row.pop("step")
            for name, value in row.items():
                if step is not None and value is not None:
                    steps, values = columns.setdefault(name, (array("d"), array("d")))
                    steps.append(step)
                    values.append(value)
    return {
        name: thinned(np.asarray(steps), np.asarray(values))
        for name, (steps, values) in columns.items()
    }


def thinned(steps: np.ndarray, values: np.ndarray, most: int = POINTS) -> Series:
    """Return at most `most` points: means over equal stretches, and the last point unchanged.

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
    """Return running means over `WINDOW` of the points, and over half of it at the ends."""
    half = max(1, round(WINDOW * len(series.values) / 2))
    total = np.concatenate([[0.0], np.cumsum(series.values)])
    place = np.arange(len(series.values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(place))
    return Series(steps=series.steps, values=(total[last] - total[first]) / (last - first))


def layers_over_time(path: Path) -> LayersOverTime | None:
    """Return layers.csv as a matrix; None if it is missing or empty.

    Raises:
        RecipeError: The file is damaged.
    """
    with reading(path):
        line: dict[str, int] = {}
        lines, at, oscillating = array("q"), array("d"), array("d")
        for row in read_table(path, text=("layer",)):
            lines.append(line.setdefault(str(row["layer"]), len(line)))
            at.append(row["step"])
            oscillating.append(math.nan if row["oscillating"] is None else row["oscillating"])
        if not line:
            return None
        steps, columns = np.unique(np.asarray(at), return_inverse=True)
        if len(line) * len(steps) > MOST_CELLS:
            raise ValueError(f"{len(line):,} layers at {len(steps):,} steps are too many to show")
        shares = np.full((len(line), len(steps)), np.nan)
        shares[np.asarray(lines), columns] = oscillating
    return LayersOverTime(layers=tuple(line), steps=steps, oscillating=shares)


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

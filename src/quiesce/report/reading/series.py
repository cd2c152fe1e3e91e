"""Reads the tables of steps of a run, reduced to a size that suits a page."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.files.untrusted.csv_rows import read_rows
from quiesce.report.run_data import DEPTHWISE, LayersOverTime, Series
from quiesce.run_folder.reading import reading

POINTS = 300
"""Maximum number of points of a curve: about one per pixel of a chart on half a screen."""

MOST_CELLS = 4_000_000
"""Maximum size of the matrix of layers by steps: ten times 2,000 layers at 200 steps."""

WINDOW = 0.08
"""Window of the running mean, as a share of the curve."""


def read_columns(path: Path, text: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the columns of a CSV file: lists of text, or floats with NaN in empty cells.

    A last line without its end is left out, because it is still being written.

    Args:
        path: The file, which may be missing.
        text: Columns that are not numbers.

    Raises:
        RecipeError: A row does not fit the first line, or a cell is not a number.
    """
    columns: dict[str, list[Any]] = defaultdict(list)
    if path.exists():
        with reading(path):
            for row in read_rows(path):
                for name, cell in row.items():
                    columns[name].append(cell if name in text else float(cell or "nan"))
    return {
        name: cells if name in text else np.asarray(cells, float) for name, cells in columns.items()
    }


def curves(path: Path) -> dict[str, Series]:
    """Return each column of a table by step, without empty cells; empty if there is no table."""
    columns = read_columns(path)
    with reading(path):
        steps = columns.pop("step") if columns else np.empty(0)
    known = {name: ~np.isnan(values) & ~np.isnan(steps) for name, values in columns.items()}
    return {
        name: thinned(steps[known[name]], values[known[name]])
        for name, values in columns.items()
        if known[name].any()
    }


def thinned(steps: np.ndarray, values: np.ndarray, most: int = POINTS) -> Series:
    """Return at most `most` points: means over equal stretches, and the last point unchanged."""
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
    """Return layers.csv as a matrix; None if it is missing or empty."""
    columns = read_columns(path, text=("layer",))
    if not columns:
        return None
    with reading(path):
        line = {name: i for i, name in enumerate(dict.fromkeys(columns["layer"]))}
        steps, places = np.unique(columns["step"], return_inverse=True)
        if len(line) * len(steps) > MOST_CELLS:
            raise ValueError(f"{len(line):,} layers at {len(steps):,} steps are too many to show")
        shares = np.full((len(line), len(steps)), np.nan)
        shares[[line[name] for name in columns["layer"]], places] = columns["oscillating"]
        # a folder of an earlier version has no such column
        bits = dict(zip(columns["layer"], map(int, columns.get("bits", ())), strict=False))
    return LayersOverTime(layers=tuple(line), bits=bits, steps=steps, oscillating=shares)


def batchnorm_curves(path: Path) -> dict[str, Series]:
    """Return the KL over steps, averaged over depth-wise layers and over the others."""
    columns = read_columns(path, text=("layer", "kind"))
    found = {}
    if not columns:
        return found
    with reading(path):
        depthwise = np.array([kind == DEPTHWISE for kind in columns["kind"]], bool)
        for kind, chosen in ((DEPTHWISE, depthwise), ("other", ~depthwise)):
            if chosen.any():
                steps, places = np.unique(columns["step"][chosen], return_inverse=True)
                sums = np.bincount(places, columns["kl_mean"][chosen])
                found[kind] = thinned(steps, sums / np.bincount(places))
    return found

"""Oscillation over layers and training: one row per layer, one column per step."""

import numpy as np

from quiesce.report.charts.chart import Chart
from quiesce.report.charts.curves import STEPS
from quiesce.report.charts.layer_map import ROWS, layer_map
from quiesce.report.numbers import percent
from quiesce.report.run_data import Run


def over_time(run: Run, label: str, top: float) -> Chart | None:
    """Return the heat map of a run; None for fewer than two steps in layers.csv.

    Args:
        top: Share of the strongest colour, 0 to 1.
    """
    matrix = low_bit_shares(run)
    if matrix is None or run.over_time is None or len(run.over_time.steps) < 2:
        return None
    rows, shares = matrix
    peak = np.nanmax(shares, axis=1)
    kept = np.sort(np.argsort(-peak, kind="stable")[:ROWS])
    names = [rows[i] for i in kept]
    most = names[int(np.argmax(peak[kept]))]
    return layer_map(
        names,
        run.over_time.steps.astype("int32"),
        100 * shares[kept],
        title=label,
        note=f"The {ROWS} of {len(rows)} layers that oscillate most." if len(rows) > ROWS else "",
        alt=f"Oscillating share of {len(names)} layers over optimizer steps, at most "
        f"{percent(float(peak.max()))} in {most}.",
        top=100 * top,
        scale=("0 %", percent(top)),
        x=STEPS,
        hover="step %{x}: %{z:.2f} %",
    )


def low_bit_shares(run: Run) -> tuple[list[str], np.ndarray] | None:
    """Return names and shares of low-bit layers, or of all if bits are unknown; None if empty.

    Without a summary and a diagnosis, the bits of the layers come from layers.csv.
    """
    if run.over_time is None:
        return None
    low = {layer.name for layer in run.low_bit_layers}
    if not run.layers:
        bits, most = run.over_time.bits, run.low_bits
        low = {
            name for name in run.over_time.layers if most is None or bits.get(name, most) <= most
        }
    chosen = [i for i, name in enumerate(run.over_time.layers) if name in low]
    if not chosen:
        return None
    return [run.over_time.layers[i] for i in chosen], run.over_time.oscillating[chosen]

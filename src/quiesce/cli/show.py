"""The table of results that `quiesce train` and `quiesce demo` print."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

METRIC = "metric"
COLUMNS = ("top-1", "re-est.", "loss", "oscil.", "depth-w.", "frozen", "ms/step")
LEGEND = """\
top-1: accuracy on the test images in %; re-est.: the same with re-estimated
batch-norm statistics; loss: training cross-entropy in the last epoch; oscil.: %
of weights that oscillate (frequency above 0.005), without the first and last
layer; depth-w.: the same in depth-wise layers; frozen: % of weights that are
frozen"""


def progress_console() -> Console:
    """Return the console for progress, on stderr, and silence Lightning's hints.

    Lightning logs its devices and tips and warns about the number of workers of a data loader.
    None of that is about quantization, and `data.workers` is the user's choice.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    return Console(stderr=True)


def show_runs(summaries: Mapping[str, dict[str, Any]], folder: Path) -> None:
    """Print the table of runs that start from the same float network, and their folder."""
    console = Console()
    console.print(results(summaries))
    console.print(LEGEND, style="dim", highlight=False)
    console.print(f"\nall files are in {folder}", highlight=False, soft_wrap=True)


def results(summaries: Mapping[str, dict[str, Any]]) -> Table:
    """Return the table: the float network, the same network rounded, then each run."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("network", no_wrap=True)
    scored = any(summary.get(METRIC) for summary in summaries.values())
    for column in (*COLUMNS, *([METRIC] if scored else [])):
        table.add_column(column, justify="right")
    first = next(iter(summaries.values()))
    for name, state in (("float", "float"), ("rounded, untrained", "rounded")):
        cells = [_number(first["top1_percent"][state], 1), *[""] * (len(COLUMNS) - 1)]
        end = state == "rounded"
        table.add_row(name, *cells, *_metric(first, scored, state), end_section=end)
    for name, summary in summaries.items():
        table.add_row(name, *_cells(summary), *_metric(summary, scored, "reestimated", "trained"))
    return table


def _metric(summary: dict[str, Any], scored: bool, *states: str) -> list[str]:
    """Return the cell of the first of these states that has a score; none without any metric."""
    found = summary.get(METRIC) or {}
    known = (found[state] for state in states if found.get(state) is not None)
    value = next(known, None)
    return ["" if value is None else f"{value:.4g}"] if scored else []


def _cells(summary: dict[str, Any]) -> list[str]:
    top1, oscillation = summary["top1_percent"], summary["oscillation"]
    return [
        _number(top1["trained"], 1),
        _number(top1["reestimated"], 1),
        _number(summary["train_loss"], 3),
        _share(oscillation["low_bit"]["oscillating"]),
        _share(oscillation["low_bit_depthwise"]["oscillating"]),
        _share(oscillation["low_bit"]["frozen"]),
        _number(1000 * summary["seconds_per_step"], 1),
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"

"""Tables for the terminal, and the results of `quiesce train` and `quiesce demo`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = ("top-1", "re-est.", "loss", "oscil.", "depth-w.", "frozen", "ms/step")
LEGEND = """\
top-1: accuracy on the test images in %; re-est.: the same with re-estimated
batch-norm statistics; loss: training cross-entropy in the last epoch; oscil.: %
of weights that oscillate (frequency above 0.005), without the first and last
layer; depth-w.: the same in depth-wise layers; frozen: % of weights that are
frozen"""


def make_table(first: str, *numbers: str, no_wrap: bool = True) -> Table:
    """Return an empty table: a column of names, then columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=no_wrap)
    return table


def show_runs(summaries: Mapping[str, dict[str, Any]], folder: Path) -> None:
    """Print the table of runs that start from the same float network, and their folder."""
    console = Console()
    console.print(results(summaries))
    console.print(LEGEND, style="dim", highlight=False)
    for line in metrics(summaries):
        console.print(f"\n{line}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"\nall files are in {folder}", highlight=False, soft_wrap=True)


def results(summaries: Mapping[str, dict[str, Any]]) -> Table:
    """Return the table of the float network, the same network rounded, and each run."""
    table = make_table("network", *COLUMNS, no_wrap=False)
    first = next(iter(summaries.values()))["top1_percent"]
    table.add_row("float", _number(first["float"], 1))
    table.add_row("rounded, untrained", _number(first["rounded"], 1), end_section=True)
    for name, summary in summaries.items():
        table.add_row(name, *_cells(summary))
    return table


def metrics(summaries: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return a line for each run with a user metric."""
    lines = []
    for name, summary in summaries.items():
        if found := summary.get("metric"):
            scores = {state: value for state, value in found["scores"].items() if value is not None}
            told = ", ".join(f"{state} {value:.4g}" for state, value in scores.items())
            lines.append(f"{name}: metric {found['name']}: {told}")
    return lines


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

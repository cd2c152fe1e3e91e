"""The tables of the page: numbers as text, units in the heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quiesce.report.numbers import MISSING, cell
from quiesce.report.palette import color
from quiesce.report.run_data import Group, Run
from quiesce.run_folder.contents import DiagnosedLayer


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    name: str
    """What it is of."""
    cells: tuple[str, ...]
    """One for each column."""
    color: str | None = None
    """Light colour of its group."""
    remark: str = ""
    """Below the name."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under heads."""

    names: str
    """Head of the names."""
    columns: tuple[str, ...]
    """Heads of the numbers."""
    rows: tuple[Row, ...]
    """At least one."""


HEADLINE: tuple[tuple[str, Callable[[Run], float | None], int, float], ...] = (
    ("float top-1, %", lambda run: run.top1_float, 1, 1),
    ("top-1, %", lambda run: run.top1.running, 1, 1),
    ("re-estimated, %", lambda run: run.top1.reestimated, 1, 1),
    ("loss, nats", lambda run: run.train_loss, 3, 1),
    ("oscillating, %", lambda run: run.oscillating, 2, 100),
    ("depth-wise, %", lambda run: run.oscillating_depthwise, 2, 100),
    ("frozen, %", lambda run: run.frozen, 2, 100),
)
"""Head, measure, digits, factor."""


def headline(groups: Sequence[Group]) -> Table:
    """Return one row for each group: means and standard deviations over its seeds."""
    several = any(len(group.runs) > 1 for group in groups)
    rows = []
    for i, group in enumerate(groups):
        cut = [run for run in group.runs if not run.finished]
        cells = _headline_cells(group.runs)
        rows.append(
            Row(
                name=group.label,
                cells=(str(len(group.runs)), *cells) if several else cells,
                color=color(i),
                remark=_remark(cut, len(group.runs)),
            )
        )
    heads = tuple(head for head, *_ in HEADLINE)
    return Table(names="network", columns=("n", *heads) if several else heads, rows=tuple(rows))


def every_run(groups: Sequence[Group]) -> Table | None:
    """Return one row for each run; None where the headline has that already."""
    if all(len(group.runs) == 1 for group in groups):
        return None
    rows = tuple(
        Row(
            name=run.title,
            cells=(MISSING if run.seed is None else str(run.seed), *_headline_cells([run])),
            color=color(i),
            remark=_remark([] if run.finished else [run], 1),
        )
        for i, group in enumerate(groups)
        for run in group.runs
    )
    return Table(names="run", columns=("seed", *(head for head, *_ in HEADLINE)), rows=rows)


def _headline_cells(runs: Sequence[Run]) -> tuple[str, ...]:
    return tuple(
        cell([measure(run) for run in runs], digits, factor)
        for _, measure, digits, factor in HEADLINE
    )


def _remark(cut: Sequence[Run], runs: int) -> str:
    if not cut:
        return ""
    return f"cut off at step {cut[0].steps:,}" if runs == 1 else f"{len(cut)} of {runs} cut off"


LAYER: tuple[tuple[str, Callable[[DiagnosedLayer], float | None], int, float], ...] = (
    ("oscillating, %", lambda layer: layer.oscillating, 2, 100),
    ("frozen, %", lambda layer: layer.frozen, 2, 100),
    ("near a threshold, %", lambda layer: layer.near_threshold, 2, 100),
    ("flips a step", lambda layer: layer.flips_per_step, 1, 1),
    ("distance ratio", lambda layer: layer.distance_ratio, 2, 1),
)


def layers(run: Run) -> Table | None:
    """Return one row for each layer of a run, in the network's order; None without layers."""
    if not run.layers:
        return None
    rows = tuple(
        Row(
            name=layer.name,
            cells=(
                layer.kind,
                f"{layer.weights:,}",
                MISSING if layer.bits is None else str(layer.bits),
                *(cell([find(layer)], digits, factor) for _, find, digits, factor in LAYER),
            ),
        )
        for layer in run.layers
    )
    heads = ("kind", "weights", "bits", *(head for head, *_ in LAYER))
    return Table(names="layer", columns=heads, rows=rows)

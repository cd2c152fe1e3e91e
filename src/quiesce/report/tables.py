"""Tables of the page: numbers as text, units in the headers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quiesce.report.numbers import MISSING, cell
from quiesce.report.palette import color
from quiesce.report.run_data import Group, Run
from quiesce.run_folder.contents import DiagnosedLayer


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table."""

    name: str
    cells: tuple[str, ...]
    color: str | None = None
    """Light colour of the group."""
    remark: str = ""
    """Text below the name."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows below a header."""

    names: str
    """Header of the names."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def facts(groups: Sequence[Group]) -> Table | None:
    """Return the training setup: one row for all groups that agree, one column per known fact."""
    places: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for i, group in enumerate(groups):
        places.setdefault(tuple(group.runs[0].facts.items()), []).append(i)
    columns = tuple(dict.fromkeys(head for known in places for head, _ in known))
    if not columns:
        return None
    rows = tuple(
        Row(
            name=_names([groups[i].label for i in same], len(groups)),
            cells=tuple(dict(known).get(head, MISSING) for head in columns),
            color=color(same[0]) if len(same) == 1 < len(groups) else None,
        )
        for known, same in places.items()
    )
    return Table(names="runs", columns=columns, rows=rows)


def _names(labels: Sequence[str], everyone: int) -> str:
    if len(labels) == 1:
        return labels[0]
    if len(labels) == everyone:
        return f"all {everyone}"
    return f"{labels[0]} and {len(labels) - 1} more"


Measures = tuple[tuple[str, Callable[[Run], float | None], int, float], ...]

METRIC = "metric"
HEADLINE: Measures = (
    ("float top-1, %", lambda run: run.top1_float, 1, 1),
    ("top-1, %", lambda run: run.top1.running, 1, 1),
    ("re-estimated, %", lambda run: run.top1.reestimated, 1, 1),
    (METRIC, lambda run: run.metric, 4, 1),
    ("loss, nats", lambda run: run.train_loss, 3, 1),
    ("oscillating, %", lambda run: run.oscillating, 2, 100),
    ("depth-wise, %", lambda run: run.oscillating_depthwise, 2, 100),
    ("frozen, %", lambda run: run.frozen, 2, 100),
)
"""Header, measure, digits, factor."""


def headline(groups: Sequence[Group]) -> Table:
    """Return one row for each group: means and standard deviations over seeds."""
    several = any(len(group.runs) > 1 for group in groups)
    columns = _headline_columns(groups)
    rows = []
    for i, group in enumerate(groups):
        cut = [run for run in group.runs if not run.finished]
        cells = _headline_cells(group.runs, columns)
        rows.append(
            Row(
                name=group.label,
                cells=(str(len(group.runs)), *cells) if several else cells,
                color=color(i),
                remark=_remark(cut, len(group.runs)),
            )
        )
    heads = tuple(head for head, *_ in columns)
    return Table(names="network", columns=("n", *heads) if several else heads, rows=tuple(rows))


def every_run(groups: Sequence[Group]) -> Table | None:
    """Return one row for each run; None if the headline already contains it."""
    if all(len(group.runs) == 1 for group in groups):
        return None
    columns = _headline_columns(groups)
    rows = tuple(
        Row(
            name=run.title,
            cells=(
                MISSING if run.seed is None else str(run.seed),
                *_headline_cells([run], columns),
            ),
            color=color(i),
            remark=_remark([] if run.finished else [run], 1),
        )
        for i, group in enumerate(groups)
        for run in group.runs
    )
    return Table(names="run", columns=("seed", *(head for head, *_ in columns)), rows=rows)


def _headline_columns(groups: Sequence[Group]) -> Measures:
    """Return the columns of the headline, without the recipe metric if no run has one."""
    scored = any(run.metric is not None for group in groups for run in group.runs)
    return tuple(each for each in HEADLINE if scored or each[0] != METRIC)


def _headline_cells(runs: Sequence[Run], columns: Measures) -> tuple[str, ...]:
    return tuple(
        cell([measure(run) for run in runs], digits, factor)
        for _, measure, digits, factor in columns
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
            remark="locked" if layer.locked else "",
        )
        for layer in run.layers
    )
    heads = ("kind", "weights", "bits", *(head for head, *_ in LAYER))
    return Table(names="layer", columns=heads, rows=rows)

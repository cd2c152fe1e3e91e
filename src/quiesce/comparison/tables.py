"""Formats a comparison as rows of text, as CSV and as Markdown."""

import csv
import io
from collections.abc import Iterable, Sequence

from quiesce.comparison.compare import Comparison
from quiesce.comparison.groups import Group
from quiesce.comparison.measures import Measure
from quiesce.comparison.statistics import COVERAGE, Difference, Spread

Rows = list[list[str]]

LEGEND = """\
Each cell: mean ± sample standard deviation over n seeds."""

LEGEND_DIFFERENCES = """\
Intervals by the t distribution: paired over the seeds that both have, Welch's
where they share fewer than two."""

METHODS = {
    "paired": "paired, {n} seeds",
    "welch": "Welch, {n} seeds or more each",
    "none": "none: n = {n}",
}
"""Description of each kind of interval."""


def spreads(comparison: Comparison) -> Rows:
    """Return the table of means: a header, then a row for each group."""
    measures = comparison.measures
    rows = [["recipe", "n", *(measure.title for measure in measures)]]
    for group in comparison.groups:
        cells = [_spread(comparison.spread(group, each), each) for each in measures]
        rows.append([group.label, str(len(group.runs)), *cells])
    return rows


def differences(comparison: Comparison) -> Rows:
    """Return the table of differences: a header, then a row for each group and measure."""
    if comparison.baseline is None:
        return []
    head = f"minus {comparison.baseline.label}"
    rows = [[head, "measure", "difference", f"{COVERAGE:.0%} interval", "interval from"]]
    for group in comparison.groups:
        label = group.label
        for measure in comparison.measures:
            if found := comparison.difference(group, measure):
                rows.append([label, measure.title, *_difference(found, measure)])
                label = ""
    return rows


def legend(comparison: Comparison) -> str:
    """Return the legend of columns and cells."""
    columns = "; ".join(f"{each.title}: {each.help}" for each in comparison.measures)
    parts = [LEGEND] if comparison.baseline is None else [LEGEND, LEGEND_DIFFERENCES]
    return "\n".join([*parts, columns])


def markdown(comparison: Comparison) -> str:
    """Return both tables, their legend and the excluded runs, as Markdown."""
    tables = [rows for rows in (spreads(comparison), differences(comparison)) if len(rows) > 1]
    parts = ["\n".join(_markdown_lines(rows)) for rows in tables]
    parts.append(" ".join(legend(comparison).split()))
    if comparison.left_out:
        parts.append("\n".join(f"- {line}" for line in left_out(comparison)))
    return "\n\n".join(parts) + "\n"


def left_out(comparison: Comparison) -> list[str]:
    """Return a line for each run that is not in the comparison."""
    return [f"left out: {folder}: {why}" for folder, why in comparison.left_out.items()]


def csv_text(comparison: Comparison) -> str:
    """Return a row for each group and measure, in the units of summary.json, as CSV."""
    fields = list(dict.fromkeys(field for group in comparison.groups for field in group.fields))
    head = ["recipe", "name", *fields, "measure", "unit", "n", "mean", "std", "seeds"]
    head += ["baseline", "difference", "low", "high", "interval", "interval_n"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for group in comparison.groups:
        settings = [group.fields.get(field) for field in fields]
        for measure in comparison.measures:
            numbers = _numbers(comparison, group, measure)
            writer.writerow([group.label, group.name, *settings, *numbers])
    return text.getvalue()


def _numbers(comparison: Comparison, group: Group, measure: Measure) -> Iterable[object]:
    found, apart = comparison.spread(group, measure), comparison.difference(group, measure)
    yield from (measure.key, measure.unit)
    yield from (found.n, found.mean, found.std) if found else (0, None, None)
    yield " ".join(map(str, sorted(group.values(measure))))
    yield comparison.baseline.label if comparison.baseline else None
    if apart:
        yield from (apart.value, apart.low, apart.high, apart.method, apart.n)
    else:
        yield from [None] * 5


def _spread(found: Spread | None, measure: Measure) -> str:
    if found is None:
        return ""
    mean = f"{measure.factor * found.mean:.{measure.digits}f}"
    return (
        mean if found.std is None else f"{mean} ± {measure.factor * found.std:.{measure.digits}f}"
    )


def _difference(found: Difference, measure: Measure) -> list[str]:
    def signed(value: float) -> str:
        return f"{measure.factor * value:+.{measure.digits}f}"

    interval = ""
    if found.low is not None and found.high is not None:
        interval = f"{signed(found.low)} to {signed(found.high)}"
    return [signed(found.value), interval, METHODS[found.method].format(n=found.n)]


def _markdown_lines(rows: Rows) -> Iterable[str]:
    head, *body = rows
    yield _markdown_line(head)
    yield _markdown_line(["---", *["---:"] * (len(head) - 1)])
    yield from map(_markdown_line, body)


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

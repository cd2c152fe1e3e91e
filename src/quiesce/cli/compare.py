"""`quiesce compare RUN...`: compare recipes over their seeds."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quiesce.cli.arguments import Arguments
from quiesce.cli.json_output import print_json
from quiesce.comparison.compare import Comparison, compare
from quiesce.comparison.groups import Group
from quiesce.comparison.measures import Measure
from quiesce.comparison.tables import (
    Rows,
    csv_text,
    differences,
    left_out,
    legend,
    markdown,
    spreads,
)
from quiesce.run_folder.folder import write_text


def parser() -> Arguments:
    """Return the parser of `quiesce compare`."""
    made = Arguments(
        prog="quiesce compare",
        description="Group runs by recipe. Print the mean and standard deviation over seeds, and "
        "the difference to a baseline with its 95 %% confidence interval, paired by seed.",
    )
    made.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="a run, a sweep, or a folder of runs"
    )
    made.add_argument("--baseline", metavar="NAME", help="recipe that the others are compared with")
    made.add_argument("--csv", metavar="FILE", type=Path, help="also write all numbers to FILE")
    made.add_argument("--markdown", metavar="FILE", type=Path, help="also write the tables to FILE")
    made.add_argument(
        "--mixed-data", action="store_true", help="compare runs even if their data sets differ"
    )
    made.add_json()
    return made


def main(argv: Sequence[str]) -> int:
    """Print the comparison of the runs in `argv`, and write the requested files."""
    known = parser().parse_args(argv)
    folders = [folder.expanduser() for folder in known.runs]
    compared = compare(folders, baseline=known.baseline, mixed_data=known.mixed_data)
    if known.json:
        print_json(tree(compared))
    else:
        show_comparison(compared)
    for path, text in ((known.csv, csv_text), (known.markdown, markdown)):
        if path is not None:
            write_text(path.expanduser(), text(compared))
    return 0


def show_comparison(compared: Comparison) -> None:
    """Print the tables, their legend, and the excluded runs."""
    console = Console()
    for rows in (spreads(compared), differences(compared)):
        if len(rows) > 1:
            console.print(_table(rows))
    console.print(legend(compared), style="dim", highlight=False, markup=False)
    for line in left_out(compared):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def tree(compared: Comparison) -> dict[str, Any]:
    """Return the comparison for `--json`, in the units of summary.json."""
    return {
        "baseline": compared.baseline.label if compared.baseline else None,
        "recipes": [
            {
                "recipe": group.label,
                "name": group.name,
                "fields": group.fields,
                "seeds": sorted(group.runs),
                "measures": {
                    measure.key: _measured(compared, group, measure)
                    for measure in compared.measures
                },
            }
            for group in compared.groups
        ],
        "left_out": [
            {"run": str(folder), "reason": why} for folder, why in compared.left_out.items()
        ],
    }


def _measured(compared: Comparison, group: Group, measure: Measure) -> dict[str, Any]:
    found, apart = compared.spread(group, measure), compared.difference(group, measure)
    return {
        "unit": measure.unit,
        "spread": asdict(found) if found else None,
        "difference": asdict(apart) if apart else None,
    }


def _table(rows: Rows) -> Table:
    head, *body = rows
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(Text(head[0]), overflow="fold")
    for title in head[1:]:
        table.add_column(title, justify="right", overflow="fold")
    for row, following in zip_longest(body, body[1:]):
        over = following is not None and bool(following[0]) and not row[0]
        table.add_row(*(Text(cell.replace(" ± ", "\n± ")) for cell in row), end_section=over)
    return table

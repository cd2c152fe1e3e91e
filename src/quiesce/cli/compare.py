"""`quiesce compare RUN...`: recipes side by side, over their seeds."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quiesce.cli.arguments import Arguments
from quiesce.comparison.compare import Comparison, compare
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


def main(argv: Sequence[str]) -> int:
    """Print the comparison of the runs that `argv` names, and write it where it says."""
    parser = Arguments(
        prog="quiesce compare",
        description="Group runs by recipe; report mean and standard deviation over seeds, and the "
        "difference to a baseline with its 95 % interval, paired by seed.",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="a run, a sweep, or a folder of runs"
    )
    parser.add_argument("--baseline", metavar="NAME", help="the recipe to take differences to")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write every number there too")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there too")
    parser.add_argument(
        "--mixed-data", action="store_true", help="compare runs of different data nevertheless"
    )
    known = parser.parse_args(argv)
    folders = [folder.expanduser() for folder in known.runs]
    compared = compare(folders, baseline=known.baseline, mixed_data=known.mixed_data)
    show_comparison(compared)
    for path, text in ((known.csv, csv_text), (known.markdown, markdown)):
        if path is not None:
            write_text(path.expanduser(), text(compared))
    return 0


def show_comparison(compared: Comparison) -> None:
    """Print the tables, what they mean, and which runs are not in them."""
    console = Console()
    for rows in (spreads(compared), differences(compared)):
        if len(rows) > 1:
            console.print(_table(rows))
    console.print(legend(compared), style="dim", highlight=False, markup=False)
    for line in left_out(compared):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


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

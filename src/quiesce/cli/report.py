"""`quiesce report RUN... -o FILE`: write an HTML page about runs."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.cli.arguments import Arguments, check_output
from quiesce.extras import require

NEEDED = ("plotly", "jinja2", "numpy", "yaml", "msgspec")


def parser() -> Arguments:
    """Return the parser of `quiesce report`."""
    made = Arguments(
        prog="quiesce report",
        description="Write one self-contained HTML page about a run, several runs, or a sweep.",
    )
    made.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run, a sweep, or a folder of runs"
    )
    made.add_output("report.html")
    return made


def main(argv: Sequence[str]) -> int:
    """Write the page about the folders in `argv`."""
    known = parser().parse_args(argv)
    for module in NEEDED:
        require(module, "`quiesce report`", "report")

    from quiesce.report.collect import collect
    from quiesce.report.page import page

    output = known.output.expanduser()
    check_output(output, known.force)
    made = page(collect([each.expanduser() for each in known.runs]))
    output.write_text(made, "utf-8")
    print(f"{output} ({len(made.encode()) / 1e6:.1f} MB)")
    return 0

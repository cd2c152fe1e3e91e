"""`quiesce report RUN... -o FILE`: one HTML page about runs."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.cli.arguments import Arguments
from quiesce.errors import RecipeError
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
    made.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="page to write (default: report.html)",
    )
    made.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    return made


def main(argv: Sequence[str]) -> int:
    """Write the page about the folders in `argv`."""
    known = parser().parse_args(argv)
    for module in NEEDED:
        require(module, "`quiesce report`", "report")

    from quiesce.report.collect import collect
    from quiesce.report.page import page

    output = known.output.expanduser()
    _check(output, known.force)
    made = page(collect([each.expanduser() for each in known.runs]))
    output.write_text(made, "utf-8")
    print(f"{output} ({len(made.encode()) / 1e6:.1f} MB)")
    return 0


def _check(output: Path, force: bool) -> None:
    if not output.parent.is_dir():
        raise RecipeError(f"{output}: there is no folder {output.parent}; create it first")
    if output.is_dir():
        raise RecipeError(f"{output} is a folder; give a file: -o report.html")
    if output.exists() and not force:
        raise RecipeError(f"{output} exists already; give another file with -o, or add --force")

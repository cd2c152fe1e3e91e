"""`quiesce report RUN|SWEEP|RUN... -o FILE`: what happened in runs, as one page."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.cli.arguments import Arguments
from quiesce.errors import RecipeError
from quiesce.extras import require

NEEDED = ("plotly", "jinja2", "numpy", "yaml")


def main(argv: Sequence[str]) -> int:
    """Write the page about the folders that `argv` names."""
    parser = Arguments(
        prog="quiesce report",
        description="Write one self-contained HTML page about a run, several, or a sweep.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folder, folder of runs, or sweep"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help="(default: report.html)"
    )
    parser.add_argument("--force", action="store_true", help="write over an existing file")
    known = parser.parse_args(argv)
    for module in NEEDED:
        require(module, "`quiesce report`", "report")

    from quiesce.report.collect import collect
    from quiesce.report.page import page

    output = known.output.expanduser()
    _refuse(output, known.force)
    made = page(collect([each.expanduser() for each in known.runs]))
    output.write_text(made, "utf-8")
    print(f"{output} ({len(made.encode()) / 1e6:.1f} MB)")
    return 0


def _refuse(output: Path, force: bool) -> None:
    if not output.parent.is_dir():
        raise RecipeError(f"{output}: there is no folder {output.parent}; make it first")
    if output.is_dir():
        raise RecipeError(f"{output} is a folder; name a file: -o report.html")
    if output.exists() and not force:
        raise RecipeError(f"{output} exists already; name another: -o FILE, or add --force")

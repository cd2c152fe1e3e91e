"""`quiesce report RUN... -o FILE`: write an HTML page about runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from quiesce.cli.arguments import Arguments, check_output
from quiesce.errors import QuiesceError
from quiesce.extras import require
from quiesce.user_code import TRUST

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
    made.add_argument(
        "--time",
        action="store_true",
        help="export each finished run to a temporary ONNX file, measure its size and the "
        "milliseconds of an image on this machine, and keep them in RUN/shipped.json",
    )
    made.add_trust()
    return made


def main(argv: Sequence[str]) -> int:
    """Write the page about the folders in `argv`; return 1 if a run was not measured."""
    known = parser().parse_args(argv)
    for module in NEEDED:
        require(module, "`quiesce report`", "report")

    from quiesce.report.collect import collect
    from quiesce.report.page import page

    output = known.output.expanduser()
    check_output(output, known.force)
    folders = [each.expanduser() for each in known.runs]
    subject = collect(folders)
    failed = False
    if known.time:
        failed = not _time([run.folder for run in subject.runs], [TRUST] if known.trust else [])
        subject = collect(folders)
    made = page(subject)
    output.write_text(made, "utf-8")
    print(f"{output} ({len(made.encode()) / 1e6:.1f} MB)")
    return int(failed)


def _time(runs: Sequence[Path], flags: Sequence[str]) -> bool:
    """Measure the exported files of runs; return whether all of them could be measured."""
    from quiesce.after_training.ship import measure
    from quiesce.run_folder.folder import SHIPPED_NUMBERS, write_json

    measured = 0
    for folder in runs:
        try:
            found = measure(folder, flags)
        except QuiesceError as error:
            print(f"not measured: {error}", file=sys.stderr)
            continue
        write_json(folder / SHIPPED_NUMBERS, found.tree())
        print(f"{folder}: {found.bytes:,} bytes, {found.milliseconds:.3g} ms an image")
        measured += 1
    return measured == len(runs)

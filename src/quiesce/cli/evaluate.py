"""`quiesce evaluate RUN`: measure the accuracy of a trained network again."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.after_training.evaluate import evaluate
from quiesce.cli.arguments import Arguments
from quiesce.cli.json_output import print_json
from quiesce.training.display import Display, progress_console


def parser() -> Arguments:
    """Return the parser of `quiesce evaluate`."""
    made = Arguments(
        prog="quiesce evaluate",
        usage="%(prog)s RUN [--trust] [--json] [--field.name VALUE ...]",
        description="Measure the top-1 accuracy of a trained network again. Flags override fields "
        "of the recipe, such as --data.folder.",
    )
    made.add_argument("run", metavar="RUN", help="folder that `quiesce train` made")
    made.add_trust()
    made.add_json()
    return made


def main(argv: Sequence[str]) -> int:
    """Print the top-1 accuracy of the run in `argv`, in percent, and its metric if it has one."""
    known, flags = parser().parse_with_recipe_flags(argv)
    with Display(progress_console()) as display:
        found = evaluate(Path(known.run).expanduser(), flags, display)
    if known.json:
        print_json({"run": known.run, **found._asdict()})
    else:
        print(f"top-1 {found.top1_percent:.2f} %")
        if found.metric is not None:
            print(f"metric {found.metric:.4g}")
    return 0

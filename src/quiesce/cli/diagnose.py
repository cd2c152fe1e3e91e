"""`quiesce diagnose RUN`: measure the effects of oscillation on a network, layer by layer."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.after_training.diagnose import diagnose
from quiesce.cli.arguments import Arguments
from quiesce.cli.json_output import print_json
from quiesce.cli.show_diagnosis import show_diagnosis
from quiesce.training.display import Display, progress_console


def parser() -> Arguments:
    """Return the parser of `quiesce diagnose`."""
    made = Arguments(
        prog="quiesce diagnose",
        usage="%(prog)s RUN [--trust] [--json] [--recipe RECIPE] [--field.name VALUE ...]",
        description="Show oscillation, weights, batch-norm statistics and loss of a run at its "
        "last checkpoint, layer by layer. The numbers are also written to diagnosis.json in the "
        "run folder. Flags override fields of the recipe.",
    )
    made.add_argument("run", metavar="RUN", help="folder of `quiesce train`, or a checkpoint")
    made.add_argument("--recipe", help="recipe of the checkpoint: a name or a file")
    made.add_trust()
    made.add_json()
    return made


def main(argv: Sequence[str]) -> int:
    """Diagnose the run in `argv`, print the tables and write diagnosis.json."""
    known, flags = parser().parse_with_recipe_flags(argv)
    run = Path(known.run).expanduser()
    with Display(progress_console()) as display:
        diagnosis = diagnose(run, known.recipe, flags, display)
    if known.json:
        print_json(diagnosis.tree())
    else:
        show_diagnosis(diagnosis, run)
    return 0

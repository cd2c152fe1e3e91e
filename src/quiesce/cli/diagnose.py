"""`quiesce diagnose RUN`: what oscillation did to a network, layer by layer."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.after_training.diagnose import diagnose
from quiesce.cli.arguments import Arguments
from quiesce.cli.show import progress_console
from quiesce.cli.show_diagnosis import show_diagnosis
from quiesce.training.display import Display


def main(argv: Sequence[str]) -> int:
    """Diagnose the run that `argv` names, print its tables and leave diagnosis.json there."""
    parser = Arguments(
        prog="quiesce diagnose",
        usage="%(prog)s RUN [--recipe RECIPE] [--field.name VALUE ...]",
        description="Look at the weights, the batch norms and the loss of a run, as its last "
        "checkpoint has them; flags override its recipe. A run folder gets diagnosis.json.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of `quiesce train`, or a checkpoint")
    parser.add_argument("--recipe", help="name or file of the recipe of a checkpoint")
    known, flags = parser.parse_known_args(argv)
    run = Path(known.run).expanduser()
    with Display(progress_console()) as display:
        diagnosis = diagnose(run, known.recipe, flags, display)
    show_diagnosis(diagnosis, run)
    return 0

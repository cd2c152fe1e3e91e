"""`quiesce evaluate RUN`: the network of a run folder, rebuilt and measured again."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.after_training.evaluate import evaluate
from quiesce.cli.arguments import Arguments
from quiesce.cli.show import progress_console
from quiesce.training.display import Display


def main(argv: Sequence[str]) -> int:
    """Print the top-1 of the run folder that `argv` names, in percent."""
    parser = Arguments(
        prog="quiesce evaluate",
        usage="%(prog)s RUN [--field.name VALUE ...]",
        description="Measure the network of a run folder again; flags override its recipe.",
    )
    parser.add_argument("run", metavar="RUN", help="folder that `quiesce train` made")
    known, flags = parser.parse_known_args(argv)
    with Display(progress_console()) as display:
        top1 = evaluate(Path(known.run).expanduser(), flags, display)
    print(f"top-1 {top1:.2f} %")
    return 0

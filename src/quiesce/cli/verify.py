"""`quiesce verify RUN model.onnx`: check that a file computes the same as the trained network."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.after_training.export import verify_run
from quiesce.cli.arguments import Arguments
from quiesce.cli.json_output import print_json
from quiesce.cli.show_verification import show_verification, tree

MISMATCH = 1


def parser() -> Arguments:
    """Return the parser of `quiesce verify`."""
    made = Arguments(
        prog="quiesce verify",
        usage="%(prog)s RUN FILE [--trust] [--json] [--data FOLDER] [--field.name VALUE ...]",
        description="Run an exported file in ONNX Runtime and compare it with the trained network, "
        "layer by layer and as a whole. Print the layers that differ. The exit code is 1 if the "
        "file does not compute what the network computes.",
    )
    made.add_argument("run", metavar="RUN", help="folder that `quiesce train` made")
    made.add_argument("file", metavar="FILE", help="file that `quiesce export` made from it")
    made.add_argument(
        "--data", type=Path, metavar="FOLDER", help="compare on these images, not on the run's"
    )
    made.add_trust()
    made.add_json()
    return made


def main(argv: Sequence[str]) -> int:
    """Compare the file with the run; return 0 if they agree and 1 if they do not."""
    known, flags = parser().parse_with_recipe_flags(argv)
    folder, path = Path(known.run).expanduser(), Path(known.file).expanduser()
    found = verify_run(folder, path, known.data, flags)
    if known.json:
        print_json(tree(found))
    else:
        show_verification(found)
    return 0 if found.passed else MISMATCH

"""`quiesce verify RUN model.onnx`: whether a file computes what the trained network computes."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.after_training.export import verify_run
from quiesce.cli.arguments import Arguments
from quiesce.cli.show_verification import show_verification

MISMATCH = 1


def main(argv: Sequence[str]) -> int:
    """Compare the file with the run; 0 where they agree, 1 where they do not."""
    parser = Arguments(
        prog="quiesce verify",
        usage="%(prog)s RUN FILE [--data FOLDER] [--field.name VALUE ...]",
        description="Run an exported file in ONNX Runtime beside the trained network, layer by "
        "layer and whole. Exit code 1 names the first layer that departs.",
    )
    parser.add_argument("run", metavar="RUN", help="folder that `quiesce train` made")
    parser.add_argument("file", metavar="FILE", help="file that `quiesce export` made of it")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="images in place of the run's")
    known, flags = parser.parse_known_args(argv)
    folder, path = Path(known.run).expanduser(), Path(known.file).expanduser()
    found = verify_run(folder, path, known.data, flags)
    show_verification(found, every=True)
    return 0 if found.passed else MISMATCH

"""`quiesce predict model.onnx IMAGE...`: the top classes of pictures."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.cli.arguments import Arguments
from quiesce.export.predict import Predictor


def main(argv: Sequence[str]) -> int:
    """Print the likeliest classes of each picture."""
    parser = Arguments(
        prog="quiesce predict",
        description="Name the likeliest classes of pictures with a file of `quiesce export`.",
    )
    parser.add_argument("file", metavar="FILE", help="file that `quiesce export` made")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="pictures")
    parser.add_argument("--top", type=int, default=5, help="classes to print (default: 5)")
    known = parser.parse_args(argv)
    if known.top < 1:
        parser.error(f"--top must be at least 1 class, got {known.top}")
    predictor = Predictor(Path(known.file).expanduser())
    for picture in known.images:
        guesses = predictor(picture, known.top)
        print(picture)
        for guess in guesses:
            print(f"  {100 * guess.share:5.1f} %  {guess.label}")
    return 0

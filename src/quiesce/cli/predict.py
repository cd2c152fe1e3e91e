"""`quiesce predict model.onnx IMAGE...`: classify images with an exported file."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quiesce.cli.arguments import Arguments
from quiesce.cli.json_output import print_json
from quiesce.export.predict import Predictor


def parser() -> Arguments:
    """Return the parser of `quiesce predict`."""
    made = Arguments(
        prog="quiesce predict",
        description="Print the likeliest classes of images, computed with an exported file.",
    )
    made.add_argument("file", metavar="FILE", help="file that `quiesce export` made")
    made.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="images to classify")
    made.add_argument("--top", type=int, default=5, metavar="N", help="classes to print (5)")
    made.add_json()
    return made


def main(argv: Sequence[str]) -> int:
    """Print the most likely classes of each image."""
    made = parser()
    known = made.parse_args(argv)
    if known.top < 1:
        made.error(f"--top must be at least 1 class, got {known.top}")
    predictor = Predictor(Path(known.file).expanduser())
    if known.json:
        print_json({"images": [_tree(predictor, image, known.top) for image in known.images]})
        return 0
    for image in known.images:
        guesses = predictor(image, known.top)
        print(image)
        for guess in guesses:
            print(f"  {100 * guess.share:5.1f} %  {guess.label}")
    return 0


def _tree(predictor: Predictor, image: Path, count: int) -> dict[str, Any]:
    return {"image": str(image), "classes": [asdict(each) for each in predictor(image, count)]}

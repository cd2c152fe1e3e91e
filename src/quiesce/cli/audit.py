"""`quiesce audit RUN FILE`: show which numbers of a file are not those of the trained network."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from quiesce.after_training.export import audit_run
from quiesce.cli.arguments import Arguments
from quiesce.cli.json_output import print_json

CHANGED = 1


def parser() -> Arguments:
    """Return the parser of `quiesce audit`."""
    made = Arguments(
        prog="quiesce audit",
        usage="%(prog)s RUN FILE [--trust] [--json] [--field.name VALUE ...]",
        description="Compare the weight codes, scales and biases in a file with those of the "
        "trained network, layer by layer, and show what each difference does to the outputs. The "
        "file may come from any tool: ONNX with QuantizeLinear, QONNX, or .tflite. The exit code "
        "is 1 if a weight code changed.",
    )
    made.add_argument("run", metavar="RUN", help="folder that `quiesce train` made")
    made.add_argument("file", metavar="FILE", help="a .onnx or .tflite file of that network")
    made.add_trust()
    made.add_json()
    return made


def main(argv: Sequence[str]) -> int:
    """Print the table of layers that changed; return 1 if a weight code did."""
    known, flags = parser().parse_with_recipe_flags(argv)
    found = audit_run(Path(known.run).expanduser(), Path(known.file).expanduser(), flags)
    if known.json:
        print_json({"changed": found.changed, "layers": [asdict(each) for each in found.layers]})
    else:
        print(found)
        if not found.equal:
            print(
                "codes, scales, biases: how many are not the trained ones, batch norms folded; by\n"
                "units: largest difference of a bias, in accumulator units; output %, classes:\n"
                "what this layer alone does to the outputs"
            )
    return CHANGED if found.changed else 0

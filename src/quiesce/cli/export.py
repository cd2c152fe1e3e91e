"""`quiesce export RUN -o model.onnx`: the network of a run folder as a file of integers."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from quiesce.after_training.export import export_run, export_run_arrays, export_run_program
from quiesce.cli.arguments import Arguments
from quiesce.cli.show_verification import show_verification
from quiesce.errors import MismatchError, RecipeError
from quiesce.export.metadata import Exported
from quiesce.export.packing import PACKS

FORMATS = ("onnx", "program", "npz")
MISMATCH = 1


def main(argv: Sequence[str]) -> int:
    """Write the file that `argv` asks for; 1 where it would not compute what training computed."""
    parser = Arguments(
        prog="quiesce export",
        usage="%(prog)s RUN -o FILE [--format FORMAT] [--pack TYPE] [--input TYPE] "
        "[--round-biases] [--opset N] [--no-verify] [--force] [--field.name VALUE ...]",
        description="Export the network of a run folder as integers and verify that the file "
        "computes what the network computes; flags override the recipe.",
    )
    parser.add_argument("run", metavar="RUN", help="folder that `quiesce train` made")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="file to make")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="onnx",
        help="onnx: for ONNX Runtime and others; program: torch.export's .pt2, for torch alone; "
        "npz: plain arrays of integers (default: onnx)",
    )
    parser.add_argument(
        "--pack",
        choices=PACKS,
        default="int8",
        help="narrowest container of weight codes: int4 and int2 make a smaller file that is not "
        "computed in integers (default: int8)",
    )
    parser.add_argument(
        "--input",
        choices=("float", "uint8"),
        default="float",
        help="uint8: the file takes raw pixels and normalises them itself (default: float)",
    )
    parser.add_argument(
        "--round-biases",
        action="store_true",
        help="move biases to whole numbers that integer convolutions can add: with more than 5 "
        "bits of activations few layers run in integers otherwise",
    )
    parser.add_argument("--opset", type=int, help="version of the ONNX operators (default: 21)")
    parser.add_argument("--no-verify", action="store_true", help="write without comparing")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    known, flags = parser.parse_known_args(argv)
    folder, path = Path(known.run).expanduser(), Path(known.output).expanduser()
    if known.format != "onnx":
        return _other(known, folder, path, flags)
    try:
        made = export_run(
            folder,
            path,
            flags,
            pack=known.pack,
            opset=known.opset,
            uint8=known.input == "uint8",
            round_biases=known.round_biases,
            verify=not known.no_verify,
            overwrite=known.force,
        )
    except MismatchError as error:
        print(error)
        return MISMATCH
    layers = made.description.layers
    whole = sum(layer.integer for layer in layers)
    moved = known.round_biases or known.pack != "int8"
    hint = "" if moved or not any(map(_may_gain, layers)) else " (more with --round-biases?)"
    print(f"{path}: {made.size:,} bytes, {len(layers)} quantized layers")
    print(
        f"integer throughout: {whole}{hint}; integer weights, float arithmetic: "
        f"{len(layers) - whole}"
    )
    _show_left_float(made.description.left_float)
    if made.verification is None:
        print("not verified")
    else:
        show_verification(made.verification)
    return 0


def _may_gain(layer: Exported) -> bool:
    """Whether a layer may come to run in integers by rounding its bias."""
    return not layer.integer and layer.bits < 8 and (layer.input_bits or 0) > 4


def _other(known: Namespace, folder: Path, path: Path, flags: Sequence[str]) -> int:
    """The formats that are not ONNX."""
    options = {"pack": "int8", "input": "float", "opset": None, "round_biases": False}
    for name, default in options.items():
        if getattr(known, name) != default:
            flag = name.replace("_", "-")
            raise RecipeError(f"--{flag} is for --format onnx, and the format is {known.format}")
    if known.format == "npz":
        header = export_run_arrays(folder, path, flags, overwrite=known.force)
        size, layers = path.stat().st_size, len(header["layers"])
        print(f"{path}: {size:,} bytes, {layers} quantized layers, codes as trained")
        _show_left_float(header["left_float"])
        return 0
    try:
        made = export_run_program(
            folder, path, flags, verify=not known.no_verify, overwrite=known.force
        )
    except MismatchError as error:
        print(error)
        return MISMATCH
    checked = "not verified" if known.no_verify else "verified: codes exact, logits bit for bit"
    print(f"{path}: {made.size:,} bytes")
    _show_left_float(made.left_float)
    print(checked)
    return 0


def _show_left_float(names: Sequence[str]) -> None:
    if names:
        print(f"left in float: {', '.join(names)}")

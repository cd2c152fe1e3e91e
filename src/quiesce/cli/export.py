"""`quiesce export RUN -o model.onnx`: export a trained network as integers."""

from argparse import BooleanOptionalAction, Namespace
from collections.abc import Sequence
from pathlib import Path

from quiesce.after_training.export import (
    export_run,
    export_run_arrays,
    export_run_program,
    export_run_to,
)
from quiesce.cli.arguments import Arguments
from quiesce.cli.show_verification import show_verification
from quiesce.errors import MismatchError, RecipeError
from quiesce.export.packing import PACKS
from quiesce.export.targets.catalog import TARGETS, target_named
from quiesce.export.verification.result import Verification

FORMATS = ("onnx", "program", "npz")
MISMATCH = 1


def parser() -> Arguments:
    """Return the parser of `quiesce export`."""
    made = Arguments(
        prog="quiesce export",
        usage="%(prog)s RUN -o FILE [--target NAME | --format FORMAT] [--pack TYPE] "
        "[--input TYPE] [--round-biases | --no-round-biases] [--allow-differences SHARE] "
        "[--opset N] [--no-verify] [--force] [--trust] "
        "[--field.name VALUE ...]",
        description="Export a trained network as integers, and verify that the file computes what "
        "the network computes. Flags override fields of the recipe.",
    )
    made.add_argument("run", metavar="RUN", help="folder that `quiesce train` made")
    made.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write")
    made.add_argument(
        "--target",
        metavar="NAME",
        help=f"runtime or tool to write for: {', '.join(TARGETS)}; `quiesce targets` says what "
        "each takes (default: onnx)",
    )
    made.add_argument(
        "--format",
        choices=FORMATS,
        help="onnx: for ONNX Runtime and other engines; program: a torch.export .pt2 file for "
        "PyTorch; npz: NumPy arrays of integers (default: onnx)",
    )
    made.add_argument(
        "--pack",
        choices=PACKS,
        default="int8",
        help="smallest type of the weight codes; int4 and int2 make smaller files, which compute "
        "in float (default: int8)",
    )
    made.add_argument(
        "--input",
        choices=("float", "uint8"),
        default="float",
        help="uint8: the file takes raw pixels and normalizes them itself (default: float)",
    )
    made.add_argument(
        "--round-biases",
        action=BooleanOptionalAction,
        help="round biases so that integer convolutions can add them; with activations of more "
        "than 5 bits, few layers compute in integers without this (default: of the target)",
    )
    made.add_argument(
        "--allow-differences",
        type=float,
        metavar="SHARE",
        help="share of the codes of a layer that may differ in the runtime, 0 to 1 (needs "
        "--target; default: 0)",
    )
    made.add_argument("--opset", type=int, metavar="N", help="ONNX opset version (default: 21)")
    made.add_argument("--no-verify", action="store_true", help="do not verify the file")
    made.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    made.add_trust()
    return made


def main(argv: Sequence[str]) -> int:
    """Write the requested file; return 1 if its outputs would differ."""
    known, flags = parser().parse_with_recipe_flags(argv)
    folder, path = Path(known.run).expanduser(), Path(known.output).expanduser()
    if known.target is not None:
        return _to_target(known, folder, path, flags)
    if known.allow_differences is not None:
        raise RecipeError("--allow-differences needs --target NAME")
    if known.format not in ("onnx", None):
        return _other(known, folder, path, flags)
    try:
        made = export_run(
            folder,
            path,
            flags,
            pack=known.pack,
            opset=known.opset,
            uint8=known.input == "uint8",
            round_biases=bool(known.round_biases),
            verify=not known.no_verify,
            overwrite=known.force,
        )
    except MismatchError as error:
        print(error)
        return MISMATCH
    layers = made.description.layers
    whole = sum(layer.integer for layer in layers)
    moved = known.round_biases or known.pack != "int8"
    narrow = (each for each in layers if not each.integer and each.bits < 8)
    gain = not moved and any((each.input_bits or 0) > 4 for each in narrow)
    hint = " (--round-biases may raise this)" if gain else ""
    print(f"{path}: {made.size:,} bytes, {len(layers)} quantized layers")
    print(f"layers that compute in integers: {whole} of {len(layers)}{hint}")
    _show_left_float(made.description.left_float)
    _show(made.verification)
    return 0


OPTIONS = {"pack": "int8", "opset": None}
"""Flags that are options of a target, and their defaults."""


def _to_target(known: Namespace, folder: Path, path: Path, flags: Sequence[str]) -> int:
    """Export to a target."""
    if known.format is not None:
        raise RecipeError("give --target or --format, not both")
    target = target_named(known.target)
    options = {name: getattr(known, name) for name in OPTIONS}
    options = {name: value for name, value in options.items() if value != OPTIONS[name]}
    for name in (*options, *(["input"] if known.input != "float" else [])):
        if "pack" not in target.options:
            raise RecipeError(f"--{name} is for the target onnx, got --target {target.name}")
    try:
        made = export_run_to(
            target,
            folder,
            path,
            flags,
            options=options,
            uint8=known.input == "uint8",
            round_biases=known.round_biases,
            allow_differences=known.allow_differences,
            verify=not known.no_verify,
            overwrite=known.force,
        )
    except MismatchError as error:
        print(error)
        return MISMATCH
    except ValueError as error:  # of allow_differences
        raise RecipeError(str(error)) from error
    print(f"{path}: {made.size:,} bytes for {target.name}")
    for note in made.notes:
        print(note)
    _show(made.verification)
    return 0


def _show(verification: Verification | None) -> None:
    if verification is None:
        print("not verified")
    else:
        show_verification(verification)


def _other(known: Namespace, folder: Path, path: Path, flags: Sequence[str]) -> int:
    """Export to a format other than ONNX."""
    options = {"pack": "int8", "input": "float", "opset": None, "round_biases": None}
    for name, default in options.items():
        if getattr(known, name) != default:
            flag = name.replace("_", "-")
            raise RecipeError(f"--{flag} needs --format onnx, got --format {known.format}")
    if known.format == "npz":
        header = export_run_arrays(folder, path, flags, overwrite=known.force)
        size, layers = path.stat().st_size, len(header["layers"])
        print(f"{path}: {size:,} bytes, {layers} quantized layers")
        _show_left_float(header["left_float"])
        return 0
    try:
        made = export_run_program(
            folder, path, flags, verify=not known.no_verify, overwrite=known.force
        )
    except MismatchError as error:
        print(error)
        return MISMATCH
    checked = "not verified" if known.no_verify else "verified: equal codes, equal logits"
    print(f"{path}: {made.size:,} bytes")
    _show_left_float(made.left_float)
    print(checked)
    return 0


def _show_left_float(names: Sequence[str]) -> None:
    if names:
        print(f"left in float: {', '.join(names)}")

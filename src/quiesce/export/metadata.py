"""The description in an exported file, which `predict` and `verify` read without torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from quiesce.errors import ExportError
from quiesce.files.untrusted.onnx_graphs import read_onnx
from quiesce.files.untrusted.typed_trees import typed
from quiesce.files.untrusted.yaml_and_json import parse_json

KEY = "quiesce"
"""Key of the description among the model's metadata properties."""

VERSION = 1

LARGEST_SIDE = 4096
"""Largest height or width of a network's input, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing of an image for the network."""

    mean: tuple[float, ...]
    """Mean of each channel, for pixels from 0 to 1; it is subtracted."""
    std: tuple[float, ...]
    """Standard deviation of each channel; the difference is divided by it."""
    size: tuple[int, int]
    """Height and width in pixels."""
    resize: int | None = None
    """Pixels of the shorter side before a centre crop, or None to resize to `size` directly."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    folded: bool = False
    """Whether the graph normalizes its input, which then is uint8 from 0 to 255."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or 0 in self.std:
            raise ValueError("`mean` and `std` must have one number per channel, and no std of 0")
        sides = [*self.size, self.size[0] if self.resize is None else self.resize]
        if not all(1 <= side <= LARGEST_SIDE for side in sides):
            raise ValueError(f"`size` and `resize` must be 1 to {LARGEST_SIDE} pixels, got {sides}")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One use of a quantized layer in the file."""

    name: str
    """Name of the layer, with ":2" and so on for further calls."""
    layer: str
    """Name of the layer in the model."""
    bits: int
    """Width of its weight codes."""
    weight: str
    """Name of the initializer of its codes."""
    turned: bool
    """Whether the codes are stored transposed, (in, out)."""
    integer: bool
    """Whether its bias is an integer, so that runtimes can compute the layer in integers."""
    input_bits: int | None
    """Width of its input's codes, or None for a float input."""


@dataclass(frozen=True, kw_only=True)
class Codes:
    """One tensor of codes in the file."""

    name: str
    """Name of the first layer, or operand of an addition, that reads it, with ":2" and so on for
    further calls. The tensor has this name and the suffix ".input_codes"."""
    place: str
    """Name of the layer or operand in the model."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of a file, and how to use it."""

    version: int = VERSION
    layers: tuple[Exported, ...] = ()
    inputs: tuple[Codes, ...] = ()
    """All tensors of codes, in the order of their computation."""
    left_float: tuple[str, ...] = ()
    """Names of the modules whose weights are float."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits; may be empty."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Measurements of the run, without paths."""
    preprocessing: Preprocessing | None = None
    rounded_biases: bool = False
    """Whether the biases of the network were rounded for integer convolutions."""

    def to_json(self) -> str:
        """Return the description as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)


def check_stored(labels: Sequence[str], summary: Mapping[str, Any]) -> None:
    """Refuse labels and a summary that cannot be written to a file.

    Raises:
        TypeError: A label is not a string, or the summary contains a value that JSON does not have.
        ValueError: The summary contains a number that is not finite.
    """
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"`labels` must be strings, got {label!r}")
    try:
        json.dumps(dict(summary), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`summary` must contain JSON values ({error})") from error


def load_model(path: Path) -> Any:
    """Read an ONNX file that `export_onnx` wrote.

    Returns:
        An onnx.ModelProto.

    Raises:
        ExportError: The file is missing, damaged, or not written by `export_onnx`.
        MissingExtraError: onnx is not installed.
    """
    if not path.is_file():
        raise ExportError(
            f"{path} is not a file; write it with `quiesce export RUN -o {path.name}`"
        )
    try:
        model = read_onnx(path)
    except ValueError as error:
        raise ExportError(
            f"{path} is damaged or not an ONNX file ({error}); export again"
        ) from error
    description_of(model, path)
    return model


def description_of(model: Any, where: str | Path) -> Description:
    """Return the description in an onnx.ModelProto, or raise an ExportError."""
    properties = {each.key: each.value for each in model.metadata_props}
    if KEY not in properties:
        raise ExportError(
            f"{where} was not exported by quiesce; write it with `quiesce export RUN`"
        )
    try:
        tree = typed(parse_json(properties[KEY]), dict[str, Any])
        version = tree.get("version")
        if isinstance(version, int) and version > VERSION:
            raise ExportError(
                f"{where} has format version {version}, and this version of quiesce reads "
                f"versions up to {VERSION}; update quiesce"
            )
        return typed(tree, Description)
    except ValueError as error:
        raise ExportError(f"{where}: its description is damaged ({error}); export again") from error

"""What an exported file says of itself: read without torch, by `predict` and `verify` alike."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from quiesce.errors import ExportError
from quiesce.extras import require
from quiesce.files.untrusted.limits import read_bytes
from quiesce.files.untrusted.onnx_graphs import LARGEST_GRAPH, refuse_unsafe
from quiesce.files.untrusted.typed_trees import typed
from quiesce.files.untrusted.yaml_and_json import parse_json

KEY = "quiesce"
"""Key of the description among the model's metadata properties."""

VERSION = 1

LARGEST_SIDE = 4096
"""Pixels of a picture's height or width, as a network takes it."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the network's input; numbers are per channel, on the scale 0 to 1."""

    mean: tuple[float, ...]
    """Taken off each pixel."""

    std: tuple[float, ...]
    """What each pixel is divided by then."""

    size: tuple[int, int]
    """Height and width in pixels."""

    resize: int | None = None
    """Pixels of the shorter side before a centre crop, or None to resize to `size` at once."""

    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    folded: bool = False
    """Whether the graph itself takes off the mean: its input then is uint8, 0 to 255."""

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
    """The layer's, with ":2" and so on where it is called again."""

    layer: str
    """Name of the layer in the model."""

    bits: int
    """Width of its weight codes."""

    weight: str
    """Name of the initializer of its codes."""

    turned: bool
    """Whether the codes are stored transposed, (in, out)."""

    integer: bool
    """Whether it has an integer bias, so that runtimes can compute it in integers throughout."""

    input_bits: int | None
    """Width of its input's codes, or None for a float input."""


@dataclass(frozen=True, kw_only=True)
class Codes:
    """One tensor of codes in the file."""

    name: str
    """Of the layer, or the operand of an addition, that reads it first, with ":2" and so on where
    that is called again; the tensor's is this and ".input_codes"."""

    place: str
    """Name of the layer or operand in the model."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the file says of itself."""

    version: int = VERSION
    layers: tuple[Exported, ...] = ()
    inputs: tuple[Codes, ...] = ()
    """Every tensor of codes, in the order in which they are computed."""

    left_float: tuple[str, ...] = ()
    """Layers with weights that were not quantized, by name."""

    labels: tuple[str, ...] = ()
    """Name of each class, at the index of its logit; may be empty."""

    summary: Mapping[str, Any] = field(default_factory=dict)
    """What the run measured: shares and percents, no path."""

    preprocessing: Preprocessing | None = None

    rounded_biases: bool = False
    """Whether its biases are those of the network, rounded to what integer convolutions add."""

    def to_json(self) -> str:
        """Return the text that `read_description` reads to an equal description."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)


def check_told(labels: Sequence[str], summary: Mapping[str, Any]) -> None:
    """Refuse labels and a summary that a file can not hold.

    Raises:
        TypeError: A label is no text, or the summary holds what JSON has no word for.
        ValueError: The summary holds a number that is not finite.
    """
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"`labels` must be texts, got {label!r}")
    try:
        json.dumps(dict(summary), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`summary` must be ready for JSON ({error})") from error


def read_description(properties: Mapping[str, str], where: str | Path) -> Description:
    """Read the description out of a model's metadata properties.

    Args:
        properties: As onnx and onnxruntime give them.
        where: What messages call the file.

    Raises:
        ExportError: There is none, or it is of a newer version.
    """
    if KEY not in properties:
        raise ExportError(f"{where} was not exported by quiesce; make it with `quiesce export RUN`")
    try:
        tree = typed(parse_json(properties[KEY]), dict[str, Any])
        version = tree.get("version")
        if isinstance(version, int) and version > VERSION:
            raise ExportError(f"{where} is of version {version}, this quiesce reads {VERSION}")
        return typed(tree, Description)
    except ValueError as error:
        raise ExportError(f"{where}: its description is damaged ({error}); export again") from error


def load_model(path: Path) -> Any:
    """Read an ONNX file that `export_onnx` wrote.

    Returns:
        An onnx.ModelProto.

    Raises:
        ExportError: It is missing, damaged, or not ours.
        MissingExtraError: onnx is not installed.
    """
    onnx = require("onnx", "reading an ONNX file", "onnx")
    if not path.is_file():
        raise ExportError(f"{path} is not a file; make it with `quiesce export RUN -o {path.name}`")
    try:
        content = read_bytes(path, LARGEST_GRAPH)
        refuse_unsafe(content)
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # of protobuf, of the checker: what they raise is open
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ExportError(f"{path} is damaged or no ONNX file ({reason}); export again") from error
    read_description({each.key: each.value for each in model.metadata_props}, path)
    return model


def description_of(model: Any, where: str | Path) -> Description:
    """Return the description in an onnx.ModelProto."""
    return read_description({each.key: each.value for each in model.metadata_props}, where)

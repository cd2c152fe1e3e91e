"""What an exported file says of itself: read without torch, by `predict` and `verify` alike."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from quiesce.errors import ExportError
from quiesce.extras import require
from quiesce.files.untrusted.limits import read_bytes
from quiesce.files.untrusted.onnx_graphs import LARGEST_GRAPH, refuse_unsafe
from quiesce.files.untrusted.typed_values import count, mapping, maybe, number, text
from quiesce.files.untrusted.yaml_and_json import parse_json

KEY = "quiesce"
"""Key of the description among the model's metadata properties."""

VERSION = 1

INTERPOLATIONS = ("bilinear", "bicubic")

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

    interpolation: str = "bilinear"
    """bilinear or bicubic."""

    folded: bool = False
    """Whether the graph itself takes off the mean: its input then is uint8, 0 to 255."""


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
        tree = parse_json(properties[KEY])
        version = count(tree["version"])
        if version > VERSION:
            raise ExportError(f"{where} is of version {version}, this quiesce reads {VERSION}")
        return Description(
            version=version,
            layers=tuple(_exported(each) for each in tree["layers"]),
            inputs=tuple(_codes(each) for each in tree["inputs"]),
            left_float=tuple(map(text, tree["left_float"])),
            labels=tuple(map(text, tree["labels"])),
            summary=mapping(tree["summary"]),
            preprocessing=maybe(_preprocessing, tree["preprocessing"]),
            rounded_biases=bool(tree.get("rounded_biases", False)),
        )
    except (ValueError, KeyError, TypeError) as error:
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


def _exported(tree: Any) -> Exported:
    kinds: dict[str, Callable[[Any], Any]] = {
        **dict.fromkeys(("name", "layer", "weight"), text),
        **dict.fromkeys(("turned", "integer"), bool),
        "bits": count,
        "input_bits": partial(maybe, count),
    }
    return Exported(**{name: kinds[name](value) for name, value in mapping(tree).items()})


def _codes(tree: Any) -> Codes:
    return Codes(**{name: text(value) for name, value in mapping(tree).items()})


def _preprocessing(tree: Any) -> Preprocessing:
    kinds: dict[str, Callable[[Any], Any]] = {
        **dict.fromkeys(("mean", "std"), lambda each: tuple(map(number, each))),
        "size": lambda each: tuple(map(_pixels, each)),
        "resize": partial(maybe, _pixels),
        "interpolation": text,
        "folded": bool,
    }
    how = Preprocessing(**{name: kinds[name](value) for name, value in mapping(tree).items()})
    if len(how.size) != 2 or len(how.mean) != len(how.std) or 0 in how.std:
        raise ValueError("its preprocessing has sizes that do not fit")
    if how.interpolation not in INTERPOLATIONS:
        raise ValueError(f"its interpolation is {how.interpolation!r:.40}")
    return how


def _pixels(value: Any) -> int:
    if not 1 <= count(value) <= LARGEST_SIDE:
        raise ValueError(f"a picture can not have {value} pixels on a side")
    return value

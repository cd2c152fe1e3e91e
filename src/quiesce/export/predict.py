"""Classes of pictures from an exported file alone: onnxruntime and pillow, no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.errors import DataError, ExportError
from quiesce.export.metadata import Description, Preprocessing, read_description
from quiesce.export.runtime import session
from quiesce.extras import require
from quiesce.files.untrusted.limits import read_bytes
from quiesce.files.untrusted.onnx_graphs import LARGEST_GRAPH, refuse_unsafe

_LONGEST_SIDE = 2**15
"""Pixels of a resized picture before it is cropped."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One class and how sure the network is."""

    label: str
    """Its name, or its number where the file has no names."""

    share: float
    """Softmax of the logits, 0 to 1."""


class Predictor:
    """An exported file, ready to name pictures.

    Args:
        path: A file of `export_onnx` that says how pictures become inputs.

    Raises:
        ExportError: The file is missing, damaged, not ours, or does not say it.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ExportError(f"{path} is not a file; make it with `quiesce export RUN -o FILE`")
        self._where = path
        self._session = session(_content(path), optimized=True, where=path)
        try:
            properties = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise ExportError(f"{path}: its metadata are no text ({error.reason})") from error
        self.description: Description = read_description(properties, path)
        if self.description.preprocessing is None:
            raise ExportError(
                f"{path} does not say how pictures become inputs; export it with preprocessing"
            )
        self._channels = self._read_channels(len(self.description.preprocessing.mean))

    def __call__(self, picture: Path, count: int = 5) -> list[Guess]:
        """Return the `count` likeliest classes of a picture, the likeliest first.

        Raises:
            ValueError: `count` is below 1.
            DataError: The picture can not be decoded.
        """
        if count < 1:
            raise ValueError(f"`count` must be at least 1 class, got {count}")
        how = self.description.preprocessing
        pixels = read_pixels(picture, how, self._channels)  # pyright: ignore[reportArgumentType]
        logits = self._logits(pixels)
        shares = np.exp(logits[0] - logits[0].max())
        shares /= shares.sum()
        labels = self.description.labels
        if labels and len(labels) != len(shares):
            raise ExportError(
                f"{self._where} has {len(labels)} labels for {len(shares)} classes; export again"
            )
        return [
            Guess(label=labels[at] if labels else str(at), share=float(shares[at]))
            for at in np.argsort(-shares, kind="stable")[:count]
        ]

    def _read_channels(self, expected: int) -> int:
        """Channels of the pictures that the file takes."""
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 and inputs[0].name == "images" else []
        channels = shape[1] if len(shape) == 4 else None
        if channels not in (1, 3) or channels != expected:
            raise ExportError(f"{self._where} does not take pictures of 1 or 3 channels")
        return channels

    def _logits(self, pixels: np.ndarray) -> np.ndarray:
        try:
            (logits,) = self._session.run(["logits"], {"images": pixels[None]})
        except Exception as error:  # onnxruntime has a class for each status, none of them public
            raise ExportError(
                f"{self._where}: ONNX Runtime can not run it ({str(error).partition(chr(10))[0]})"
            ) from error
        if logits.ndim != 2 or len(logits) != 1 or not logits.size:
            raise ExportError(f"{self._where} gives {logits.shape} and no logits of classes")
        return logits


def _content(path: Path) -> bytes:
    try:
        content = read_bytes(path, LARGEST_GRAPH)
        refuse_unsafe(content)
    except ValueError as error:
        raise ExportError(f"{path} is damaged or no ONNX file ({error}); export again") from error
    return content


def read_pixels(picture: Path, how: Preprocessing, channels: int) -> np.ndarray:
    """Read a picture as the network takes it: (channels, height, width), uint8 or float32.

    Raises:
        DataError: It can not be decoded.
    """
    image = _decode(picture, channels)
    images: Any = require("PIL.Image", "reading a picture", "onnx")
    height, width = how.size
    method = images.Resampling[how.interpolation.upper()]
    if how.resize is not None:
        # the division last: torchvision's Resize rounds down so, and so did training
        wide, high = (int(how.resize * side / min(image.size)) for side in image.size)
        if max(wide, high) > _LONGEST_SIDE:
            raise DataError(f"{picture} is too long and narrow to be resized")
        image = image.resize((wide, high), method)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    elif image.size != (width, height):
        image = image.resize((width, height), method)
    pixels = np.asarray(image, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
    if how.folded:
        return pixels
    return ((pixels - _column(how.mean) * 255) / (_column(how.std) * 255)).astype(np.float32)


def _column(numbers: Sequence[float]) -> np.ndarray:
    return np.asarray(numbers, dtype=np.float64).reshape(-1, 1, 1)


def _decode(picture: Path, channels: int) -> Any:
    images: Any = require("PIL.Image", "reading a picture", "onnx")
    if not picture.is_file():
        raise DataError(f"{picture} is not a file")
    try:
        with images.open(picture) as image:
            return image.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # a decoder raises what it likes: OSError, SyntaxError, ...
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise DataError(f"{picture} can not be decoded ({reason})") from error

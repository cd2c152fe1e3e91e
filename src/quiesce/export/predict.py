"""Classifies images with an exported file. Needs onnx, onnxruntime and pillow, but not torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.errors import DataError, ExportError, first_line
from quiesce.export.metadata import Description, Preprocessing, description_of, load_model
from quiesce.export.runtime import session
from quiesce.extras import require

_LONGEST_SIDE = 2**15
"""Largest side of a resized image before it is cropped, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A class and its probability."""

    label: str
    """Name of the class, or its number if the file has no names."""
    share: float
    """Softmax of the logits, from 0 to 1."""


class Predictor:
    """Classifies images with an exported file.

    Args:
        path: A file that `export_onnx` wrote with `preprocessing`.

    Raises:
        ExportError: The file is missing or damaged, was not written by `export_onnx`, or has no
            preprocessing.
        MissingExtraError: onnx or onnxruntime is not installed.
    """

    def __init__(self, path: Path) -> None:
        model = load_model(path)
        self._where = path
        self._session = session(model, optimized=True, where=path)
        self.description: Description = description_of(model, path)
        if self.description.preprocessing is None:
            raise ExportError(f"{path} has no preprocessing; export it with `preprocessing`")
        self._preprocessing = self.description.preprocessing
        self._channels = self._read_channels(len(self._preprocessing.mean))

    def __call__(self, picture: Path, count: int = 5) -> list[Guess]:
        """Return the `count` most likely classes of an image, the most likely first.

        Raises:
            ValueError: `count` is below 1.
            DataError: The image cannot be decoded.
            ExportError: The file cannot be run, or its labels do not fit its logits.
        """
        if count < 1:
            raise ValueError(f"`count` must be at least 1 class, got {count}")
        logits = self._logits(read_pixels(picture, self._preprocessing, self._channels))
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
        """Return the number of channels of the images that the file takes."""
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 and inputs[0].name == "images" else []
        channels = shape[1] if len(shape) == 4 else None
        if channels not in (1, 3) or channels != expected:
            raise ExportError(f"{self._where} does not take images with 1 or 3 channels")
        return channels

    def _logits(self, pixels: np.ndarray) -> np.ndarray:
        try:
            (logits,) = self._session.run(["logits"], {"images": pixels[None]})
        except Exception as error:  # onnxruntime has one private class for each status
            raise ExportError(
                f"{self._where}: ONNX Runtime cannot run it ({first_line(error)})"
            ) from error
        if logits.ndim != 2 or len(logits) != 1 or not logits.size:
            raise ExportError(
                f"{self._where} returns a tensor of shape {logits.shape}, and no logits"
            )
        return logits


def read_pixels(picture: Path, how: Preprocessing, channels: int) -> np.ndarray:
    """Return an image as network input: (channels, height, width), uint8 or float32.

    Raises:
        DataError: It cannot be decoded.
    """
    image = _decode(picture, channels)
    images: Any = require("PIL.Image", "reading an image", "onnx")
    height, width = how.size
    method = images.Resampling[how.interpolation.upper()]
    if how.resize is not None:
        # in this order, as torchvision's Resize does in training
        wide, high = (int(how.resize * side / min(image.size)) for side in image.size)
        if max(wide, high) > _LONGEST_SIDE:
            raise DataError(f"{picture} is too long and narrow to resize")
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
    images: Any = require("PIL.Image", "reading an image", "onnx")
    if not picture.is_file():
        raise DataError(f"{picture} is not a file")
    try:
        with images.open(picture) as image:
            return image.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ...
        raise DataError(f"{picture} cannot be decoded ({first_line(error)})") from error

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
        self._session = session(path.read_bytes(), optimized=True, where=path)
        properties = self._session.get_modelmeta().custom_metadata_map
        self.description: Description = read_description(properties, path)
        if self.description.preprocessing is None:
            raise ExportError(
                f"{path} does not say how pictures become inputs; export it with preprocessing"
            )
        self._channels = int(self._session.get_inputs()[0].shape[1])

    def __call__(self, picture: Path, count: int = 5) -> list[Guess]:
        """Return the `count` likeliest classes of a picture, the likeliest first.

        Raises:
            DataError: The picture can not be decoded.
        """
        how = self.description.preprocessing
        pixels = read_pixels(picture, how, self._channels)  # pyright: ignore[reportArgumentType]
        (logits,) = self._session.run(["logits"], {"images": pixels[None]})
        shares = np.exp(logits[0] - logits[0].max())
        shares /= shares.sum()
        labels = self.description.labels
        return [
            Guess(label=labels[at] if labels else str(at), share=float(shares[at]))
            for at in np.argsort(-shares, kind="stable")[:count]
        ]


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
        share = how.resize / min(image.size)
        wide, high = (max(how.resize, int(side * share)) for side in image.size)
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

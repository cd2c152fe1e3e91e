"""Encoded pictures of noise, for data sets that a test makes."""

import io

import numpy
from PIL import Image


def jpeg(number: int, size: tuple[int, int] = (48, 40)) -> bytes:
    """Return a JPEG of width and height `size`, the same for the same number."""
    noise = numpy.random.default_rng(number)
    pixels = noise.integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()

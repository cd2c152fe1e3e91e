"""Comparison of the outputs of a file and of the network, depending on the task.

- "top1": the class with the largest value, of an image, a pixel or a token.
- "max_error": the largest difference, as a share of the largest value.
- a function of both outputs, which returns the share of the batch that agrees.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from quiesce.export.interface import LOGITS

Outputs: TypeAlias = Mapping[str, np.ndarray]
"""Outputs of a network or a file for a batch, by their names in the file."""

Compare: TypeAlias = Literal["top1", "max_error"] | Callable[[Outputs, Outputs], float]
"""Comparison method; a function takes the outputs of the network and of the file, and returns the
share that agrees, 0 to 1."""

ITEMS = {2: "images", 3: "tokens"}
"""Items that have a class, by the number of dimensions of an output; pixels for more dimensions."""


class Agreement(NamedTuple):
    """Agreement on one batch."""

    items: str
    """Items compared: images, pixels, tokens, values."""

    compared: int
    """Number of items."""

    agree: float
    """Number of items on which both agree."""


def check_compare(compare: Compare | None) -> None:
    """Raise a ValueError unless `compare` is "top1", "max_error", a function or None."""
    if not (compare in ("top1", "max_error", None) or callable(compare)):
        raise ValueError(f'`compare` must be "top1", "max_error" or a function, got {compare!r}')


def chosen(compare: Compare | None, outputs: Outputs) -> Compare:
    """Return the comparison method for these outputs; None selects the default.

    One output of shape (batch, classes), (batch, tokens, classes) or (batch, classes, height,
    width), or an output called "logits", is compared by top-1, everything else by its values.

    Raises:
        ValueError: The method is top-1, and no output has classes.
    """
    by_class = class_output(outputs) is not None
    if compare == "top1" and not by_class:
        shapes = ", ".join(f"{name} {each.shape}" for name, each in outputs.items())
        raise ValueError(f'compare="top1" needs one output with classes, got {shapes}')
    if compare is not None:
        return compare
    return "top1" if by_class else "max_error"


def class_output(outputs: Outputs) -> str | None:
    """Return the name of the output with classes: the only one, or "logits"; None if absent."""
    name = next(iter(outputs)) if len(outputs) == 1 else LOGITS
    values = outputs.get(name)
    if values is None or values.dtype.kind != "f" or values.ndim < 2:
        return None
    return name if values.shape[_class_axis(values)] > 1 else None


def classes_of(outputs: Outputs) -> np.ndarray:
    """Return the class of every image, pixel or token: int64, the shape without the classes."""
    values = outputs[class_output(outputs) or LOGITS]
    return values.argmax(_class_axis(values))


def agreement(compare: Compare, ours: Outputs, theirs: Outputs, size: int) -> Agreement | None:
    """Compare the outputs of one batch.

    Returns:
        None for "max_error", which has its own measure.

    Raises:
        ValueError: A function returned something other than a share.
    """
    if compare == "max_error":
        return None
    if compare == "top1":
        same = classes_of(ours) == classes_of(theirs)
        items = ITEMS.get(ours[class_output(ours) or LOGITS].ndim, "pixels")
        return Agreement(items, same.size, int(same.sum()))
    share = float(compare(ours, theirs))  # pyright: ignore[reportCallIssue]
    if not 0 <= share <= 1:
        raise ValueError(f"`compare` must return the share that agrees, 0 to 1, got {share}")
    return Agreement("inputs", size, share * size)


def largest_error(ours: Outputs, theirs: Outputs) -> float:
    """Return the largest difference of a value, as a share of the largest value of its output.

    For integers and booleans, return the share of values that differ.
    """
    return max((_error(ours[name], theirs[name]) for name in ours if ours[name].size), default=0.0)


def _error(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.dtype.kind != "f":
        return float(np.mean(ours != theirs))
    largest = float(np.abs(ours[np.isfinite(ours)]).max(initial=0.0))
    return farthest(ours, theirs) / max(largest, float(np.finfo(np.float32).tiny))


def farthest(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference; infinite for NaN. Other shapes raise a ValueError."""
    if ours.shape != theirs.shape:
        raise ValueError(f"an output has the shape {ours.shape}, and not {theirs.shape}")
    with np.errstate(invalid="ignore"):  # differences of infinities: 0 if equal, else infinite
        distance = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
    return float(np.nan_to_num(distance, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _class_axis(values: np.ndarray) -> int:
    """Return the axis of the classes: last for images and tokens, second for pixels."""
    return 1 if values.ndim > 3 else values.ndim - 1

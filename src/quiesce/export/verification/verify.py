"""Verifies that an exported file computes what the trained network computes.

Weights are compared code by code. Then every layer gets the trained input codes, because one early
difference would spread through all later layers. ONNX Runtime runs the layers with all graph
optimizations and with none, and the network of `integer_simulation` shows whether a difference
comes from the runtime or from float arithmetic in training. The logits, computed from the trained
codes of the last layer, are compared with that network. Finally the whole file runs.

If a file has rounded biases, everything except the whole run is compared with a copy of the trained
network with the same rounded biases.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from quiesce.errors import DataError, ExportError, QuiesceError, first_line
from quiesce.export.biases.layer_integers import InputGrid, read_inputs, read_integers
from quiesce.export.biases.rounded_biases import with_rounded_biases
from quiesce.export.metadata import Description, description_of, load_model
from quiesce.export.runtime import CODES, FED, cut_at_codes, quantized_inputs, session, with_codes
from quiesce.export.verification.file_contents import (
    check_all_listed,
    check_same_network,
    last_layers,
    last_unit,
    wrong_weights,
)
from quiesce.export.verification.integer_simulation import run_reference
from quiesce.export.verification.result import (
    LOGITS_SHARE,
    LOGITS_TIMES,
    MAX_SHARE,
    LayerCheck,
    LogitsCheck,
    Verification,
)
from quiesce.export.verification.trained_codes import Computed, run_trained
from quiesce.parallel.processes import unwrapped

CHUNK = 16
"""Images compared at a time; all codes of all layers are in memory for these."""

LAYER_IMAGES = 256
"""Images on which layers are compared; the whole file runs on all images."""

ENOUGH_CODES = round(3 / MAX_SHARE)
"""With fewer codes in a layer, chance decides whether one or two that differ are too many."""

LEAST_IMAGES = 64
"""Smallest number of images to compare, even if every layer has many codes."""

Batch = tuple[Tensor, Tensor | None]
"""Images and their labels, or None."""


def verify_onnx(
    model: nn.Module, path: str | Path, batches: Iterable[Tensor | Sequence[Tensor]]
) -> Verification:
    """Compare an ONNX file of `export_onnx` with its model.

    Args:
        model: The prepared, trained model, maybe in an AveragedModel.
        path: The file.
        batches: Inputs of the model: images (batch, ...), or pairs of images and labels.

    Returns:
        The comparison; `passed` and `verdict` have the result.

    Raises:
        ExportError: The file is missing, damaged, or not an export of this network.
        DataError: There is no batch.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    proto = load_model(Path(path))
    return verify_model(unwrapped(model), proto, _pairs(batches), where=path)


def images_needed(model: nn.Module, image: Tensor) -> int:
    """Return how many images `verify_onnx` needs to judge every layer.

    Args:
        model: A prepared and calibrated model.
        image: One input, (1, ...), on the device of `model`.

    Returns:
        A number with which the layer with the fewest codes has ENOUGH_CODES, from LEAST_IMAGES to
        LAYER_IMAGES.
    """
    fewest = min((codes.size for codes in run_trained(model, image).codes.values()), default=1)
    return min(LAYER_IMAGES, max(LEAST_IMAGES, math.ceil(ENOUGH_CODES / fewest)))


def verify_model(
    model: nn.Module,
    proto: Any,
    batches: Iterable[Batch],
    *,
    where: str | Path,
    exported: nn.Module | None = None,
) -> Verification:
    """Compare an onnx.ModelProto with its model; see `verify_onnx`.

    Args:
        model: The prepared, trained model.
        proto: The onnx.ModelProto.
        batches: Images and labels, or None instead of labels.
        where: Name of `proto` in error messages.
        exported: `model`, or its copy with rounded biases, if it is known.
    """
    description = description_of(proto, where)
    layers = read_integers(model)
    grids = read_inputs(model)
    check_same_network(description, layers, grids, where)
    names = quantized_inputs(description)
    with _reading(where):
        makers, last = last_layers(proto, description)
        found = Verification(
            wrong_weights=wrong_weights(proto, description, layers),
            layers=[LayerCheck(name=name, made_by=makers[name]) for name in names],
            logits=LogitsCheck(made_by=last, unit=last_unit(description, layers)),
            left_float=description.left_float,
        )
        runner = _Runner(proto, description, grids, where)
    device = next(model.parameters()).device
    if not description.rounded_biases:
        exported = model
    for images, labels in _chunks(batches):
        trained = run_trained(model, images.to(device))
        check_all_listed(trained.codes, names, grids, where)
        if found.images < LAYER_IMAGES:
            if exported is None:
                exported = with_rounded_biases(model, images)
            fed = trained if exported is model else run_trained(exported, images.to(device))
            reference = run_reference(exported, images, fed.codes)
            with _reading(where):
                given = runner.layers(images, fed.codes)
                _compare_layers(found, fed, reference, given)
                _compare_logits(found.logits, fed, reference, given)
        with _reading(where):
            _compare_whole(found, trained, runner.whole(images), labels)
    if not found.images:
        raise DataError("there is no image to verify on")
    return found


@contextmanager
def _reading(where: str | Path) -> Iterator[None]:
    """Turn errors from a graph that `export_onnx` did not write into one line."""
    try:
        yield
    except QuiesceError:
        raise
    except Exception as error:  # the graph may have any names and shapes
        raise ExportError(
            f"{where} differs from what `quiesce export` writes ({first_line(error)})"
        ) from error


def _pairs(batches: Iterable[Tensor | Sequence[Tensor]]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, Tensor):
            yield batch, None
        else:
            yield batch[0], batch[1] if len(batch) > 1 else None


def _chunks(batches: Iterable[Batch]) -> Iterator[Batch]:
    for images, labels in batches:
        parts = images.split(CHUNK)
        found = [None] * len(parts) if labels is None else labels.split(CHUNK)
        yield from zip(parts, found, strict=True)


class _Runner:
    """A file in ONNX Runtime, whole and cut at its codes."""

    def __init__(
        self, proto: Any, description: Description, grids: dict[str, InputGrid], where: str | Path
    ) -> None:
        names = quantized_inputs(description)
        self._proto = proto
        self._names = names
        self._where = where
        self._zeros = {each.name: grids[each.place].zero_point for each in description.inputs}
        self._how = description.preprocessing
        self._whole = session(with_codes(proto, names), optimized=True, where=where)
        self._cut: dict[bool, Any] = {}

    def whole(self, images: Tensor) -> Computed:
        """Run the whole file, optimized."""
        return self._run(self._whole, self._feed(images))

    def layers(self, images: Tensor, codes: dict[str, np.ndarray]) -> dict[bool, Computed]:
        """Run each layer on `codes`, optimized or not."""
        feed = self._feed(images)
        for name in self._names:
            feed[name + FED] = (codes[name].astype(np.int16) + self._zeros[name]).astype(np.uint8)
        if not self._cut:
            cut = cut_at_codes(self._proto, {name: codes[name] for name in self._names})
            for optimized in (False, True):
                self._cut[optimized] = session(cut, optimized=optimized, where=self._where)
        return {optimized: self._run(each, feed) for optimized, each in self._cut.items()}

    def _run(self, session: Any, feed: dict[str, np.ndarray]) -> Computed:
        """Return logits, and codes without zero points: int16."""
        outputs = [name + CODES for name in self._names]
        logits, *stored = session.run(["logits", *outputs], feed)
        codes = {
            name: array.astype(np.int16) - self._zeros[name]
            for name, array in zip(self._names, stored, strict=True)
        }
        return Computed(codes, logits)

    def _feed(self, images: Tensor) -> dict[str, np.ndarray]:
        array = images.detach().cpu().numpy()
        if self._how is not None and self._how.folded:
            array = _pixels(array, self._how.mean, self._how.std)
        return {"images": array}


def _pixels(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return the uint8 pixels of normalized images."""
    shape = (-1, 1, 1)
    wide = images * np.asarray(std).reshape(shape) + np.asarray(mean).reshape(shape)
    return np.clip(np.round(wide * 255), 0, 255).astype(np.uint8)


def _compare_layers(
    found: Verification, trained: Computed, reference: Computed, runtime: dict[bool, Computed]
) -> None:
    for layer in found.layers:
        ours = trained.codes[layer.name].astype(np.int16)
        plain, optimized = (runtime[level].codes[layer.name] for level in (False, True))
        if plain.shape != ours.shape or optimized.shape != ours.shape:
            raise ValueError(f"the codes of {layer.name} have another shape")
        distances = [np.abs(each - ours) for each in (plain, optimized)]
        changed = np.abs(plain - optimized)
        exact = reference.codes[layer.name]
        layer.codes += ours.size
        layer.differ += max(int(np.count_nonzero(distance)) for distance in distances)
        layer.largest = max(
            layer.largest, *(int(each.max(initial=0)) for each in (*distances, changed))
        )
        layer.optimisations += int(np.count_nonzero(changed))
        layer.runtime += int(np.count_nonzero(optimized != exact))
        layer.simulation += int(np.count_nonzero(ours != exact))


def _compare_logits(
    found: LogitsCheck, trained: Computed, reference: Computed, runtime: dict[bool, Computed]
) -> None:
    exact = reference.logits
    size = np.abs(exact[np.isfinite(exact)]).max(initial=0.0)
    ours = _farthest(trained.logits, exact)
    allowed = max(LOGITS_SHARE * size, LOGITS_TIMES * ours if math.isfinite(ours) else 0.0)
    differ = max(_farthest(each.logits, exact) for each in runtime.values())
    found.note(differ / found.unit, allowed / found.unit)


def _farthest(logits: np.ndarray, others: np.ndarray) -> float:
    """Return the largest difference; infinite if a value is NaN."""
    if logits.shape != others.shape:
        raise ValueError(f"its logits have the shape {logits.shape}")
    with np.errstate(invalid="ignore"):  # infinities are equal or infinitely far apart
        distance = np.where(logits == others, 0.0, np.abs(logits - others))
    return float(np.nan_to_num(distance, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _compare_whole(
    found: Verification, trained: Computed, runtime: Computed, labels: Tensor | None
) -> None:
    for layer in found.layers:
        theirs = runtime.codes[layer.name]
        if theirs.shape != trained.codes[layer.name].shape:
            raise ValueError(f"the codes of {layer.name} have another shape")
        differs = trained.codes[layer.name] != theirs
        layer.whole += int(np.count_nonzero(differs))
    farthest = _farthest(runtime.logits, trained.logits) / found.logits.unit
    found.logits_differ = max(found.logits_differ, farthest)
    ours, theirs = (each.reshape(len(each), -1) for each in (trained.logits, runtime.logits))
    found.images += len(ours)
    found.agree += int((ours.argmax(1) == theirs.argmax(1)).sum())
    if labels is not None:
        truth = labels.cpu().numpy()
        found.labelled += len(truth)
        found.right_trained += int((ours.argmax(1) == truth).sum())
        found.right_runtime += int((theirs.argmax(1) == truth).sum())

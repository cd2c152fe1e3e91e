"""Verifies that an exported file computes the same as the trained network.

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
from quiesce.export.interface import IMAGES, Example, example_of, example_of_batch
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
from quiesce.export.verification.outputs import (
    Compare,
    Outputs,
    agreement,
    check_compare,
    chosen,
    class_output,
    classes_of,
    farthest,
    largest_error,
)
from quiesce.export.verification.result import (
    LOGITS_SHARE,
    LOGITS_TIMES,
    MAX_SHARE,
    LayerCheck,
    LogitsCheck,
    Verification,
)
from quiesce.export.verification.trained_codes import Computed, as_array, run_trained
from quiesce.inference import Batch, Forward, Input, label_of
from quiesce.parallel.processes import unwrapped

CHUNK = 16
"""Images per comparison; all codes of all layers are in memory for these."""

LAYER_IMAGES = 256
"""Images on which layers are compared; the whole file runs on all images."""

ENOUGH_CODES = round(3 / MAX_SHARE)
"""Minimum number of codes of a layer; with fewer, one or two different codes could decide."""

LEAST_IMAGES = 64
"""Smallest number of images to compare, even if every layer has many codes."""


def verify_onnx(
    model: nn.Module,
    path: str | Path,
    batches: Iterable[Batch],
    *,
    compare: Compare | None = None,
    forward: Forward | None = None,
) -> Verification:
    """Compare an ONNX file of `export_onnx` with its model.

    Args:
        model: The prepared, trained model, or an AveragedModel of it.
        path: The file.
        batches: Inputs of the model, or pairs of an input and a label; see `quiesce.inference`.
            Labels count if they are classes, in the shape of the classes of the output.
        compare: How the outputs of the whole file are compared. "top1": at least 99 % of the
            images, pixels or tokens have the same top class. "max_error": no value differs by more
            than 5 % of the largest. A function takes the outputs of the model and of the file for a
            batch, as mappings from names to arrays, and returns the share that agrees, 0 to 1; at
            least 99 % must. None selects "top1" if the only output has the shape (batch, classes),
            (batch, tokens, classes) or (batch, classes, height, width), or if an output is called
            "logits", and otherwise "max_error".
        forward: Function of the model and a batch that calls the model, for other kinds of batches.
            The file gets the same arguments.

    Returns:
        The comparison; `passed` and `verdict` have the result.

    Raises:
        ExportError: The file is missing, damaged, or not an export of this network.
        DataError: There is no batch.
        MissingExtraError: onnx or onnxruntime is not installed.
        TypeError, ValueError: A batch or `compare` does not match this description.
    """
    check_compare(compare)
    model = unwrapped(model)
    given = ((example_of_batch(model, batch, forward), label_of(batch)) for batch in batches)
    return verify_model(model, load_model(Path(path)), given, where=path, compare=compare)


def images_needed(model: nn.Module, image: Input) -> int:
    """Return how many images `verify_onnx` needs to judge every layer.

    Returns:
        A number with which the layer with the fewest codes has ENOUGH_CODES, from LEAST_IMAGES to
        LAYER_IMAGES.
    """
    trained = run_trained(model, example_of(model, image))
    fewest = min((codes.size for codes in trained.codes.values()), default=1)
    return min(LAYER_IMAGES, max(LEAST_IMAGES, math.ceil(ENOUGH_CODES / fewest)))


def verify_model(
    model: nn.Module,
    proto: Any,
    batches: Iterable[tuple[Example, Any]],
    *,
    where: str | Path,
    exported: nn.Module | None = None,
    compare: Compare | None = None,
) -> Verification:
    """Compare an onnx.ModelProto with its model; see `verify_onnx`.

    Args:
        batches: Arguments and labels, or None instead of labels.
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
    if not description.rounded_biases:
        exported = model
    for example, labels in _chunks(batches):
        runner.check_inputs(example)
        trained = run_trained(model, example)
        check_all_listed(trained.codes, names, grids, where)
        if found.images < LAYER_IMAGES:
            if exported is None:
                exported = with_rounded_biases(model, example)
            fed = trained if exported is model else run_trained(exported, example)
            reference = run_reference(exported, example, fed.codes)
            with _reading(where):
                given = runner.layers(example, fed.codes)
                _compare_layers(found, fed, reference, given)
                _compare_outputs(found.logits, fed, reference, given)
        with _reading(where):
            whole = runner.whole(example)
            _compare_codes(found, trained, whole)
        _compare_whole(found, trained.outputs, whole.outputs, labels, compare, example.size)
        found.images += example.size
    if not found.images:
        raise DataError("there is no input to verify on")
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


def _chunks(batches: Iterable[tuple[Example, Any]]) -> Iterator[tuple[Example, Any]]:
    for example, labels in batches:
        by_entry = isinstance(labels, Tensor) and labels.dim() > 0 and len(labels) == example.size
        for start in range(0, example.size, CHUNK):
            part = slice(start, start + CHUNK)
            yield example.rows(part.start, part.stop), labels[part] if by_entry else None


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
        self._cut: dict[Any, dict[bool, Any]] = {}
        self._outputs = [output.name for output in proto.graph.output]

    def check_inputs(self, example: Example) -> None:
        """Refuse arguments that differ from the inputs of the file."""
        takes = {each.name: each.shape for each in self._whole.get_inputs()}
        if missing := [name for name in takes if name not in example.tensors]:
            raise ExportError(
                f"{self._where} takes {', '.join(takes)}, and a batch gives "
                f"{', '.join(example.tensors)}: {missing[0]} is missing"
            )
        for name, shape in takes.items():
            given = example.tensors[name].shape
            fixed = [(dim, size) for dim, size in enumerate(shape) if isinstance(size, int)]
            if len(given) != len(shape) or any(given[dim] != size for dim, size in fixed):
                raise ExportError(
                    f"{self._where} takes {name} of shape ({', '.join(map(str, shape))}), and a "
                    f"batch gives {tuple(given)}; export it with these dimensions open "
                    '(dynamic={2: "height", 3: "width"})'
                )

    def whole(self, example: Example) -> Computed:
        """Run the whole file, optimized."""
        return self._run(self._whole, self._feed(example))

    def layers(self, example: Example, codes: dict[str, np.ndarray]) -> dict[bool, Computed]:
        """Run each layer on `codes`, optimized or not."""
        feed = self._feed(example)
        for name in self._names:
            feed[name + FED] = (codes[name].astype(np.int16) + self._zeros[name]).astype(np.uint8)
        shapes = tuple(codes[name].shape[1:] for name in self._names)
        if shapes not in self._cut:  # of images or texts of another size
            cut = cut_at_codes(self._proto, {name: codes[name] for name in self._names})
            self._cut[shapes] = {
                optimized: session(cut, optimized=optimized, where=self._where)
                for optimized in (False, True)
            }
        return {optimized: self._run(each, feed) for optimized, each in self._cut[shapes].items()}

    def _run(self, session: Any, feed: dict[str, np.ndarray]) -> Computed:
        """Return outputs, and codes without zero points: int16."""
        stored = session.run([*self._outputs, *(name + CODES for name in self._names)], feed)
        outputs = dict(zip(self._outputs, stored, strict=False))
        codes = {
            name: array.astype(np.int16) - self._zeros[name]
            for name, array in zip(self._names, stored[len(outputs) :], strict=True)
        }
        return Computed(codes, outputs)

    def _feed(self, example: Example) -> dict[str, np.ndarray]:
        takes = {each.name for each in self._whole.get_inputs()}
        feed = {name: as_array(t) for name, t in example.tensors.items() if name in takes}
        if self._how is not None and self._how.folded:
            feed[IMAGES] = _pixels(feed[IMAGES], self._how.mean, self._how.std)
        return feed


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


def _compare_outputs(
    found: LogitsCheck, trained: Computed, reference: Computed, runtime: dict[bool, Computed]
) -> None:
    for name, exact in reference.outputs.items():
        if exact.dtype.kind != "f":  # integers are compared in the run of the whole file
            continue
        size = np.abs(exact[np.isfinite(exact)]).max(initial=0.0)
        ours = farthest(trained.outputs[name], exact)
        allowed = max(LOGITS_SHARE * size, LOGITS_TIMES * ours if math.isfinite(ours) else 0.0)
        differ = max(farthest(each.outputs[name], exact) for each in runtime.values())
        found.note(differ / found.unit, allowed / found.unit)


def _compare_codes(found: Verification, trained: Computed, runtime: Computed) -> None:
    for layer in found.layers:
        theirs = runtime.codes[layer.name]
        if theirs.shape != trained.codes[layer.name].shape:
            raise ValueError(f"the codes of {layer.name} have another shape")
        differs = trained.codes[layer.name] != theirs
        layer.whole += int(np.count_nonzero(differs))
    for name, ours in trained.outputs.items():
        if ours.shape != runtime.outputs[name].shape:
            raise ValueError(f"{name} has another shape")
        if ours.dtype.kind == "f":
            distance = farthest(ours, runtime.outputs[name]) / found.logits.unit
            found.logits_differ = max(found.logits_differ, distance)


def _compare_whole(
    found: Verification,
    ours: Outputs,
    theirs: Outputs,
    labels: Tensor | None,
    compare: Compare | None,
    size: int,
) -> None:
    how = chosen(compare, ours)
    found.compare = getattr(how, "__name__", "compare") if callable(how) else how
    found.error = max(found.error, largest_error(ours, theirs))
    counted = agreement(how, ours, theirs, size)
    if counted is not None:
        found.items = counted.items
        found.compared += counted.compared
        found.agree += counted.agree
    if labels is None or class_output(ours) is None:
        return
    truth, trained, runtime = labels.cpu().numpy(), classes_of(ours), classes_of(theirs)
    if truth.shape == trained.shape:
        found.labelled += truth.size
        found.right_trained += int((trained == truth).sum())
        found.right_runtime += int((runtime == truth).sum())

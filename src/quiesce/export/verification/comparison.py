"""Compares a file with the trained network, whatever runs the file.

A layer gets the codes of the trained network in the file, so its result does not depend on the
layers before it. Then the whole file runs.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from quiesce.errors import DataError, ExportError, QuiesceError, first_line
from quiesce.export.biases.layer_integers import InputGrid
from quiesce.export.biases.rounded_biases import with_rounded_biases
from quiesce.export.interface import Example
from quiesce.export.verification.file_contents import check_all_listed
from quiesce.export.verification.integer_simulation import run_reference
from quiesce.export.verification.outputs import (
    Compare,
    Outputs,
    agreement,
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
from quiesce.export.verification.trained_codes import Computed, run_trained

CHUNK = 16
"""Images per comparison; all codes of all layers are in memory for these."""

LAYER_IMAGES = 256
"""Images on which layers are compared; the whole file runs on all images."""


class Runner(Protocol):
    """Runs a file in its runtime."""

    def check_inputs(self, example: Example) -> None:
        """Refuse arguments that differ from the inputs of the file."""
        ...

    def whole(self, example: Example) -> Computed:
        """Return the codes and outputs of the whole file; codes without zero points, int16."""
        ...

    def layers(self, example: Example, codes: Mapping[str, np.ndarray]) -> Mapping[str, Computed]:
        """Return the codes and outputs of every layer from `codes`, in each way to run the file."""
        ...


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file to compare with the trained network."""

    where: str | Path
    """Name of the file in error messages."""
    runtime: str
    """Name of its runtime."""
    runner: Runner
    grids: Mapping[str, InputGrid]
    """Grids of the network's quantized inputs."""
    made_by: Mapping[str, str]
    """Names of all tensors of codes, in their order, to the layers that compute them."""
    last: str
    """The last layer."""
    unit: float
    """Floats per accumulator unit of the last layer."""
    wrong_weights: Sequence[str]
    """Layers whose integers in the file are not the trained codes, with the reason."""
    left_float: Sequence[str]
    """Modules with float weights."""
    rounded_biases: bool
    """Whether the file has rounded biases."""
    allowed: float = MAX_SHARE
    """Share of the codes of a layer that may differ."""
    excuses: bool = True
    """Whether codes on a threshold, to float32's precision, may differ beyond this share."""


def compare(
    model: nn.Module,
    file: Candidate,
    batches: Iterable[tuple[Example, Any]],
    *,
    exported: nn.Module | None = None,
    how: Compare | None = None,
) -> Verification:
    """Compare a file with its network.

    Args:
        model: The prepared, trained model.
        file: The file.
        batches: Arguments and labels, or None instead of labels.
        exported: `model`, or its copy with rounded biases, if it is known.
        how: How outputs are compared, see `verify_onnx`.

    Raises:
        DataError: There is no batch.
        ExportError: The file does not list all codes of the network, or cannot run.
    """
    names = list(file.made_by)
    found = Verification(
        wrong_weights=list(file.wrong_weights),
        layers=[
            LayerCheck(name=name, made_by=made_by, allowed=file.allowed, excuses=file.excuses)
            for name, made_by in file.made_by.items()
        ],
        logits=LogitsCheck(made_by=file.last, unit=file.unit),
        left_float=file.left_float,
        runtime=file.runtime,
    )
    if not file.rounded_biases:
        exported = model
    for example, labels in _chunks(batches):
        file.runner.check_inputs(example)
        trained = run_trained(model, example)
        check_all_listed(trained.codes, names, dict(file.grids), file.where)
        if found.images < LAYER_IMAGES:
            if exported is None:
                exported = with_rounded_biases(model, example)
            fed = trained if exported is model else run_trained(exported, example)
            reference = run_reference(exported, example, fed.codes)
            with reading(file.where):
                given = list(file.runner.layers(example, fed.codes).values())
                _compare_layers(found, fed, reference, given)
                _compare_outputs(found.logits, fed, reference, given)
        with reading(file.where):
            whole = file.runner.whole(example)
            _compare_codes(found, trained, whole)
        _compare_whole(found, trained.outputs, whole.outputs, labels, how, example.size)
        found.images += example.size
    if not found.images:
        raise DataError("there is no input to verify on")
    return found


@contextmanager
def reading(where: str | Path) -> Iterator[None]:
    """Turn errors from a graph that quiesce did not write into one line."""
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


def _compare_layers(
    found: Verification, trained: Computed, reference: Computed, runtime: Sequence[Computed]
) -> None:
    for layer in found.layers:
        ours = trained.codes[layer.name].astype(np.int16)
        ways = [each.codes[layer.name] for each in runtime]
        if any(each.shape != ours.shape for each in ways):
            raise ValueError(f"the codes of {layer.name} have another shape")
        distances = [np.abs(each - ours) for each in ways]
        changed = np.abs(ways[0] - ways[-1])  # by optimizations
        exact = reference.codes[layer.name]
        layer.codes += ours.size
        differ = max(int(np.count_nonzero(distance)) for distance in distances)
        sure = ~reference.undecided[layer.name]
        layer.differ += differ
        layer.undecided += differ - max(int(np.count_nonzero(each * sure)) for each in distances)
        layer.largest = max(
            layer.largest, *(int(each.max(initial=0)) for each in (*distances, changed))
        )
        layer.optimisations += int(np.count_nonzero(changed))
        layer.runtime += int(np.count_nonzero(ways[-1] != exact))
        layer.simulation += int(np.count_nonzero(ours != exact))


def _compare_outputs(
    found: LogitsCheck, trained: Computed, reference: Computed, runtime: Sequence[Computed]
) -> None:
    for name, exact in reference.outputs.items():
        if exact.dtype.kind != "f":  # integers are compared in the run of the whole file
            continue
        size = np.abs(exact[np.isfinite(exact)]).max(initial=0.0)
        ours = farthest(trained.outputs[name], exact)
        allowed = max(LOGITS_SHARE * size, LOGITS_TIMES * ours if math.isfinite(ours) else 0.0)
        differ = max(farthest(each.outputs[name], exact) for each in runtime)
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

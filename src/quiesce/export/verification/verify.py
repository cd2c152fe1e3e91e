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
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from quiesce.export.biases.layer_integers import read_inputs, read_integers
from quiesce.export.interface import Example, example_of, example_of_batch
from quiesce.export.metadata import description_of, load_model
from quiesce.export.runtime import quantized_inputs, session
from quiesce.export.verification.comparison import LAYER_IMAGES as LAYER_IMAGES
from quiesce.export.verification.comparison import Candidate, reading
from quiesce.export.verification.comparison import compare as compare_file
from quiesce.export.verification.file_contents import (
    check_same_network,
    last_layers,
    last_unit,
    wrong_weights,
)
from quiesce.export.verification.onnx_runner import OnnxRunner, Open
from quiesce.export.verification.outputs import Compare, check_compare
from quiesce.export.verification.result import MAX_SHARE, Verification
from quiesce.export.verification.trained_codes import run_trained
from quiesce.inference import Batch, Forward, Input, label_of
from quiesce.parallel.wrappers import without_wrappers

ENOUGH_CODES = round(3 / MAX_SHARE)
"""Minimum number of codes of a layer; with fewer, one or two different codes could decide."""

LEAST_IMAGES = 64
"""Smallest number of images to compare, even if every layer has many codes."""

ONNX_RUNTIME = "ONNX Runtime"


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

    Examples:
        >>> _ = qs.export_onnx(layer, "model.onnx", x)
        >>> qs.verify_onnx(layer, "model.onnx", [x]).passed
        True
    """
    check_compare(compare)
    model = without_wrappers(model)
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
    """Compare an onnx.ModelProto with its model in ONNX Runtime; see `verify_onnx`.

    Args:
        batches: Arguments and labels, or None instead of labels.
        exported: `model`, or its copy with rounded biases, if it is known.
    """
    ways = {
        name: partial(session, optimized=optimized, where=where)
        for name, optimized in (("plain", False), ("optimized", True))
    }
    candidate = onnx_candidate(model, proto, where=where, runtime=ONNX_RUNTIME, ways=ways)
    return compare_file(model, candidate, batches, exported=exported, how=compare)


def onnx_candidate(
    model: nn.Module,
    proto: Any,
    *,
    where: str | Path,
    runtime: str,
    ways: Mapping[str, Open],
    allowed: float = MAX_SHARE,
    excuses: bool = False,
) -> Candidate:
    """Return an onnx.ModelProto of `export_onnx` as a file to compare.

    Args:
        model: The prepared, trained model.
        proto: The onnx.ModelProto.
        where: Name of `proto` in error messages.
        runtime: Name of the runtime.
        ways: Ways to run it, see `OnnxRunner`.
        allowed: Share of the codes of a layer that may differ.
        excuses: Whether codes on a threshold may differ beyond this share.

    Raises:
        ExportError: It is of another network, or it is no file of `export_onnx`.
    """
    description = description_of(proto, where)
    layers, grids = read_integers(model), read_inputs(model)
    check_same_network(description, layers, grids, where)
    with reading(where):
        makers, last = last_layers(proto, description)
        return Candidate(
            where=where,
            runtime=runtime,
            runner=OnnxRunner(proto, description, grids, where, ways),
            grids=grids,
            made_by={name: makers[name] for name in quantized_inputs(description)},
            last=last,
            unit=last_unit(description, layers),
            wrong_weights=wrong_weights(proto, description, layers),
            left_float=description.left_float,
            rounded_biases=description.rounded_biases,
            allowed=allowed,
            excuses=excuses,
        )

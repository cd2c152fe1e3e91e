"""Exports a prepared model as an ONNX file of integers, and verifies it before it is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from quiesce.errors import ExportError, MismatchError, QuiesceError
from quiesce.export.biases.rounded_biases import with_rounded_biases
from quiesce.export.checks import check_path, check_runs, left_float
from quiesce.export.graph.edits import onnx_ir
from quiesce.export.graph.folded_graph import fold
from quiesce.export.graph.lowering import integer_biases, lower_input, lower_weight
from quiesce.export.graph.tracing import DOMAIN, INPUT, layer_of, reason
from quiesce.export.interface import Example
from quiesce.export.metadata import KEY, Codes, Description, Exported, Preprocessing, check_stored
from quiesce.export.packing import Pack, check_pack
from quiesce.export.verification.outputs import Compare, check_compare
from quiesce.export.verification.result import Verification
from quiesce.export.verification.verify import verify_model
from quiesce.extras import require
from quiesce.files.atomic import write_beside
from quiesce.inference import Input
from quiesce.parallel.wrappers import without_wrappers

if TYPE_CHECKING:
    import onnx_ir as ir

PRODUCER = "quiesce"


@dataclass(frozen=True, kw_only=True)
class Export:
    """The file that `export_onnx` wrote."""

    path: Path
    """The file."""
    size: int
    """Size of the file in bytes."""
    description: Description
    """The description in the file."""
    verification: Verification | None
    """The comparison with the trained network; None if it was skipped."""


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_input: Input,
    *,
    pack: Pack = "int8",
    opset: int | None = None,
    labels: Sequence[str] = (),
    summary: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    round_biases: bool = False,
    dynamic: Mapping[int, str] | None = None,
    compare: Compare | None = None,
    verify: bool = True,
    overwrite: bool = False,
) -> Export:
    """Write a prepared, calibrated model as an ONNX file with integer weights.

    Batch norms are folded into scales and biases, activations into the limits of codes; no code
    changes. Before it is written, the file runs in ONNX Runtime on `example_input` and is compared
    with the model, layer by layer (see `verify_onnx`).

    Args:
        model: A prepared model, or an AveragedModel of one; exported in inference mode, and not
            changed.
        path: The file to write; it appears only when it is complete.
        example_input: An input of the model, as for `prepare`; the batch size of the file is
            dynamic. The verification uses it, so give a batch of real inputs. In the file, a single
            floating input is called "images", and others have the names of the arguments. A single
            output is called "logits"; others have the names of the mapping or dataclass, or
            "output.0" and so on.
        pack: Type of the weight codes: int8; int4 or int2 for several codes per byte, in float
            convolutions (runtimes have no integer kernels for them).
        opset: Version of the ONNX operators; None for 21, or the version that `pack` needs.
        labels: Names of the classes, for `quiesce predict`.
        summary: Numbers about the network to store in the file: JSON values.
        preprocessing: How images become inputs. If it is `folded`, the file takes uint8 images, and
            `example_input` is still the input of the model.
        round_biases: Round biases to integers that integer convolutions can add, see
            `quiesce.export.biases.rounded_biases`, if they cannot add the trained ones: in most
            layers with activations of more than 5 bits. The layers are verified against a copy of
            the model with these biases, the whole file against the model. Only with `pack` int8.
        dynamic: Further dynamic dimensions of the inputs, by number: {2: "height", 3: "width"} of
            images, {1: "tokens"} of texts.
        compare: How the outputs of the whole file are compared, see `verify_onnx`.
        verify: Compare before writing.
        overwrite: Replace an existing file.

    Returns:
        The file, its description and its verification.

    Raises:
        ExportError: The file exists, or model, opset and `pack` do not fit together.
        MismatchError: The outputs of the file would differ from those of the model; no file is
            written.
        NotCalibratedError: A quantizer has no scale yet.
        NothingToDoError: The model is not prepared, or a layer is on no path to the output.
        MissingExtraError: onnx, onnxscript or, to verify, onnxruntime is not installed.
        TypeError, ValueError: An argument is wrong.

    Examples:
        >>> made = qs.export_onnx(layer, "model.onnx", x)
        >>> made.verification.passed
        True
    """
    path, model = check_path(path, overwrite=overwrite), without_wrappers(model)
    check_stored(labels, summary or {})
    opset = check_pack(pack, opset)
    if round_biases and pack != "int8":
        raise ExportError(
            f"rounded biases are for integer convolutions, which {pack} weights do not have; give "
            "--round-biases or --pack, not both (round_biases and pack in a program)"
        )
    check_compare(compare)
    example = check_runs(model, example_input)
    exported = with_rounded_biases(model, example) if round_biases else model
    proto, description = build_model(
        exported,
        example,
        pack=pack,
        opset=opset,
        labels=labels,
        summary=summary,
        preprocessing=preprocessing,
        rounded_biases=round_biases,
        dynamic=dynamic,
    )
    verification = None
    if verify:
        given = [(example, None)]
        verification = verify_model(
            model, proto, given, where=path.name, exported=exported, compare=compare
        )
        if not verification.passed:
            raise MismatchError(f"{path} was not written: {verification.verdict}")
    content = proto.SerializeToString()
    write_beside(path, lambda beside: beside.write_bytes(content))
    return Export(path=path, size=len(content), description=description, verification=verification)


def build_model(
    model: nn.Module,
    example: Example,
    *,
    pack: Pack,
    opset: int,
    labels: Sequence[str] = (),
    summary: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    rounded_biases: bool = False,
    dynamic: Mapping[int, str] | None = None,
) -> tuple[Any, Description]:
    """Return a checked onnx.ModelProto and its description.

    The arguments are those of `export_onnx`; `rounded_biases` is whether `model` is a copy made
    by `with_rounded_biases`.
    """
    folded = fold(model, example, opset, preprocessing, dynamic)
    graph, sites, inputs = folded.traced.graph, folded.sites, folded.inputs
    biases = [integer_biases(site, inputs, pack) for site in sites]
    for quantized in inputs.values():
        lower_input(graph, quantized)
    exported = []
    for site, integers in zip(sites, biases, strict=True):
        weight = lower_weight(graph, site, pack, integers)
        grid = site.layer.input
        exported.append(
            Exported(
                name=site.name,
                layer=site.layer.name,
                bits=site.layer.bits,
                weight=weight,
                turned=site.turned,
                integer=integers is not None,
                input_bits=None if grid is None else grid.bits,
            )
        )
    description = Description(
        layers=tuple(exported),
        inputs=tuple(Codes(name=each.name, place=each.place) for each in inputs.values()),
        left_float=tuple(left_float(model)),
        labels=tuple(labels),
        summary=summary or {},
        preprocessing=preprocessing,
        rounded_biases=rounded_biases,
    )
    try:
        return _finished(folded.traced, folded.outputs, description), description
    except QuiesceError:
        raise
    except Exception as error:  # onnx_ir and the checker raise many kinds
        name = type(model).__name__
        raise ExportError(f"{name} cannot be written as ONNX: {reason(error)}") from error


def _finished(model: "ir.Model", outputs: Sequence[str], description: Description) -> Any:
    """Return the checked ModelProto, without unused nodes and traces of this machine."""
    ir = onnx_ir()
    onnx = require("onnx", "export to ONNX", "onnx")
    common = ir.passes.common
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    common.ClearMetadataAndDocStringPass()(model)
    left = [node for node in model.graph if node.domain == DOMAIN]
    if left:
        kind = "input" if left[0].op_type == INPUT else "weight"
        raise ExportError(f"{layer_of(left[0])}: its {kind} quantizer could not be written as ONNX")
    model.opset_imports.pop(DOMAIN, None)
    model.metadata_props.clear()
    model.metadata_props[KEY] = description.to_json()
    model.producer_name, model.producer_version = PRODUCER, None
    model.graph.name = PRODUCER
    for output, name in zip(model.graph.outputs, outputs, strict=True):
        output.name = name
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # runtimes infer the shapes between operators
    onnx.checker.check_model(proto, full_check=True)
    return proto
